"""A contrastive term: transform + similarity + weight + objective, regularisers of the same rows,
and the queue.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from recgraph.config import PartConfig, Search
from recgraph.contrast.objectives import Objective, ObjectiveConfig
from recgraph.contrast.parts import Outcome, Similarity, Transform, Views
from recgraph.contrast.regularisers import Regulariser
from recgraph.contrast.weights import Weight
from recgraph.ranks import Share
from recgraph.registry import part, part_class
from recgraph.rng import Generators
from recgraph.sparse.blocks import unit_length
from recgraph.sparse.ragged import Ragged

# added to variances before they are divided
_SMALLEST = 1e-12


class Queue(nn.Module):
    """A queue of the last ``size`` rows of unit length; those of one id are of the last call that
    had it.

    Queued rows have no gradient and come from older parameters than the batch. :meth:`join` gives
    each of their components the mean and the deviation of the batch, with gradients to these.
    Without this alignment embeddings can lower the loss by drifting together away from the queue
    instead of apart from one another: MEOW and AdaMEOW did not learn at all. The queue is part of
    the state, so that a resumed training goes on with it.

    Source: cross-batch memory (Wang et al., CVPR 2020), aligned as in adaptive cross batch
    normalisation (Ajanthan et al., 2022).

    Args:
        size: Q rows at most; 0 keeps none.
        dim: D, their width.
    """

    rows: Tensor
    ids: Tensor
    place: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(size, dim))
        self.register_buffer("ids", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("place", torch.zeros((), dtype=torch.int64))

    def join(self, rows: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """A batch and below it the queued rows of other ids.

        Args:
            rows: [B, D], of unit length.
            ids: [B] int64, of the rows, not negative.

        Returns:
            [M, D] and [M], M between B and B + Q.
        """
        others = torch.nonzero((self.ids >= 0) & ~torch.isin(self.ids, ids)).squeeze(1)
        queued = self.rows[others].to(rows.dtype)
        if min(len(queued), len(rows)) > 1:  # one row has no deviation
            var, mean = torch.var_mean(rows, 0)
            var_old, mean_old = torch.var_mean(queued, 0)
            scale = ((var + _SMALLEST) / (var_old + _SMALLEST)).sqrt()
            queued = unit_length((queued - mean_old) * scale + mean)
        return torch.cat([rows, queued]), torch.cat([ids, self.ids[others]])

    @torch.no_grad()
    def push(self, rows: Tensor, ids: Tensor) -> None:
        """Replace the oldest rows, and earlier rows of the same ids. A batch that is pushed again
        replaces itself.

        Args:
            rows: [B, D]; where B > Q, the last Q are kept.
            ids: [B] int64, not negative; one that stands there twice keeps both rows.
        """
        size = len(self.ids)
        if not size:
            return
        rows, ids = rows[-size:], ids[-size:]
        steps = torch.arange(len(ids), device=ids.device)
        # phases of a step push one batch several times: in new places, it would leave as many old
        # ones empty
        is_again = (self.ids[(self.place - len(ids) + steps) % size] == ids).all()
        first = self.place - len(ids) * is_again
        self.ids.masked_fill_(torch.isin(self.ids, ids), -1)
        places = (first + steps) % size
        self.rows[places] = rows.detach().to(self.rows.dtype)
        self.ids[places] = ids
        self.place.copy_((first + len(ids)) % size)


class Contrast(Similarity):
    """Which parts a contrastive term is made of."""

    temperature: Annotated[
        float,
        Field(gt=0, description="what similarities are divided by"),
        Search(0.05, 2.0, log=True),
    ] = 1.0
    objective: Annotated[
        PartConfig, part("objective"), Field(description="how anchors and candidates are chosen")
    ] = part_class("objective", "nt_xent")()
    weight: Annotated[
        PartConfig | None,
        part("weight"),
        Field(description="of the candidates; none: all count alike"),
    ] = None
    transform: Annotated[
        PartConfig | None,
        part("transform"),
        Field(description="of both sides before similarity; none: as they are"),
    ] = None
    regularisers: Annotated[
        tuple[Annotated[PartConfig, part("regulariser")], ...],
        Field(description="of rows in pairs, added with their coefficients"),
    ] = ()
    queue_size: Annotated[
        int,
        Field(
            ge=0, description="rows of earlier calls that are candidates beside those of this one"
        ),
    ] = 0

    @model_validator(mode="after")
    def _drop_unread_weight(self) -> Self:
        """An objective without candidates reads no weights, so its record names none."""
        if not issubclass(self.objective.member.Config, ObjectiveConfig):
            self.__dict__["weight"] = None
        return self


class ContrastiveTerm(nn.Module):
    """``ContrastiveTerm(temperature=0.5, objective="nt_xent")(a, b)`` gives a scalar.

    Args:
        config: the parts, or
        settings: those of :class:`Contrast` by name; ``weight`` may be one that is made already
            (and shared).
        dim: width of the embeddings, for parts that must know it.
        if_none: where no anchor has a candidate: an error, or the loss 0 of a step without a
            contrast.

    Attributes:
        outcome: of the last call, detached: the loss, the number of anchors and how many had no
            candidate.
    """

    def __init__(
        self,
        config: Contrast | None = None,
        /,
        *,
        weight: Weight | PartConfig | str | Mapping[str, Any] | None = None,
        dim: int | None = None,
        if_none: Literal["error", "zero"] = "error",
        **settings: Any,
    ) -> None:
        super().__init__()
        prebuilt = None
        if isinstance(weight, Weight):
            prebuilt, weight = weight, None
        if config is None:
            config = Contrast.of(settings, weight=weight)
        self.config = config
        arguments: dict[str, Any] = {}
        if dim is not None:
            arguments["dim"] = dim
        if if_none != "error":
            arguments["if_none"] = if_none
        self.objective: Objective = config.objective.build(**arguments)
        self.weight: Weight | None = prebuilt
        if prebuilt is None and config.weight is not None:
            self.weight = config.weight.build(**arguments)
        self.transform: Transform | None = None
        if config.transform is not None:
            self.transform = config.transform.build(**arguments)
        self.regularisers = nn.ModuleList(
            config_of_one.build(**arguments) for config_of_one in config.regularisers
        )
        #: whether it needs a generator
        self.draws = self.transform is not None or self.objective.draws
        self.draws |= getattr(config.objective, "n_candidates", None) is not None
        self.queue: Queue | None = None
        if config.queue_size:
            assert dim is not None, "queue_size needs dim"
            self.queue = Queue(config.queue_size, dim)
        self.outcome: Outcome | None = None

    def stream(self, generators: Generators, of_rank: bool = False) -> torch.Generator | None:
        """What it draws with, where one of its parts draws.

        Args:
            of_rank: the rows that are contrasted are this rank's own; of others all ranks draw the
                same.
        """
        if not self.draws:
            return None
        if of_rank:
            return generators.of_rank("contrast")
        return generators["contrast"]

    def forward(
        self,
        a: Tensor,
        b: Tensor,
        ids_a: Tensor | None = None,
        ids_b: Tensor | None = None,
        positives: Tensor | Ragged | None = None,
        temperatures: Tensor | None = None,
        generator: torch.Generator | None = None,
        share: Share | None = None,
    ) -> Tensor:
        """The mean loss over the anchors, and the regularisers.

        Args:
            a: [N, D].
            b: [M, D]; M = N where the rows are in pairs.
            ids_a: [N] int64, who the rows are, for weights; default: the row number.
            ids_b: [M] int64; default: ``ids_a`` where the rows are in pairs, else the row number.
            positives: the rows of ``b`` that belong to each row of ``a``: [N] int64, or N rows
                where an anchor may have several, at least one; default: the row of the same number.
            temperatures: [M], one for each row of ``b``; default: the common one.
            generator: required by parts that draw (:attr:`draws`); on any device.
            share: the anchors of this rank, where several ranks contrast the same rows. It computes
                these alone where no anchor can be left out of the mean, else all, as every other
                rank does; in both cases the mean over ranks is the loss.
        """
        if ids_a is None:
            ids_a = torch.arange(len(a), device=a.device)
        if ids_b is None:
            ids_b = ids_a
            if positives is not None or len(a) != len(b):
                ids_b = torch.arange(len(b), device=b.device)
        views = Views(a, b, ids_a, ids_b, positives, temperatures, generator)
        is_weighted = self.weight is not None
        if share is not None and not share.is_whole and self.objective.takes_share(is_weighted):
            views = replace(views, share=share)
        if self.queue is None:
            outcome = self._contrast(views)
        else:
            outcome = self._contrast(self._with_queued(views, self.queue))
            if self.training and torch.is_grad_enabled():
                self.queue.push(unit_length(b), ids_b)
        self.outcome = replace(outcome, loss=outcome.loss.detach())
        if not self.regularisers:
            return outcome.loss
        # of each anchor and its positive; of several positives it is the row of the same number
        if isinstance(positives, Tensor):
            b = b.index_select(0, positives)
        regularisers = cast("list[Regulariser]", list(self.regularisers))
        values = [part(a, b) * part.config.coefficient for part in regularisers]
        return outcome.loss + torch.stack(values).sum()

    def _with_queued(self, views: Views, queue: Queue) -> Views:
        rows, ids = queue.join(unit_length(views.b), views.ids_b)
        partners = torch.arange(len(views.a), device=rows.device)
        # queued rows are of length 1: weights and transforms see both sides so
        if self.weight is not None or self.transform is not None:
            views = replace(views, a=unit_length(views.a))
        return replace(views, b=rows, ids_b=ids, positives=partners)

    def _contrast(self, views: Views) -> Outcome:
        """The contrast of the views, or the mean over those that the transform makes of them."""
        if self.transform is None:
            outcome: Outcome = self.objective(views, self.config, self.weight)
            return outcome
        losses, left_out, n_anchors = [], [], 0
        for a, b in self.transform(views):
            outcome = self.objective(replace(views, a=a, b=b), self.config, self.weight)
            losses.append(outcome.loss)
            left_out.append(outcome.left_out)
            n_anchors += outcome.n_anchors
        return Outcome(torch.stack(losses).mean(), n_anchors, torch.stack(left_out).sum())
