"""A contrastive term: transform + similarity + mixture + weight + objective, and regularisers of the same rows."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from recgraph import registry
from recgraph.accelerated import is_accelerated
from recgraph.config import ConfigError
from recgraph.contrast.mixtures import Mixture
from recgraph.contrast.objectives import Objective
from recgraph.contrast.queue import Queue
from recgraph.contrast.schedule import ScheduledSimilarity
from recgraph.contrast.transforms import Transform
from recgraph.contrast.views import About, Outcome, Similarity, SlowSides, Views
from recgraph.contrast.weights import Weight
from recgraph.ranks import Share
from recgraph.sparse.ragged import Ragged
from recgraph.unit_length import unit_length

__all__ = ["ContrastiveTerm", "TermConfig"]

_log = logging.getLogger(__name__)


class TermConfig(ScheduledSimilarity):
    """Which parts a term is made of, by their names in the registry."""

    objective: Annotated[str, Field(description="how anchors and candidates are chosen")] = "nt_xent"
    objective_settings: Annotated[dict[str, Any], Field(default_factory=dict, description="settings of the objective")]
    weight: Annotated[str | None, Field(description="how candidates are weighted; None: all alike")] = None
    weight_settings: Annotated[dict[str, Any], Field(default_factory=dict, description="settings of the weight")]
    mixture: Annotated[str | None, Field(description="how candidates are made from candidates; None: none are")] = None
    mixture_settings: Annotated[dict[str, Any], Field(default_factory=dict, description="settings of the mixture")]
    transform: Annotated[str | None, Field(description="of both sides before similarity; None: as they are")] = None
    transform_settings: Annotated[dict[str, Any], Field(default_factory=dict, description="settings of the transform")]
    regularisers: Annotated[
        dict[str, float | dict[str, Any]],
        Field(default_factory=dict, description="of rows in pairs: name -> coefficient, or its settings"),
    ]
    queue_size: Annotated[
        int, Field(ge=0, description="rows of earlier calls that are candidates beside those of this one")
    ] = 0


class ContrastiveTerm(nn.Module):
    """``ContrastiveTerm(temperature=0.5, objective="nt_xent")(a, b)`` gives a scalar.

    Args:
        config: the settings as a value, or
        weight: the name of a weight, or a weight that is made already (and may be shared).
        dim: width of the embeddings, for parts that must know it.
        settings: the settings of :class:`TermConfig` by name.

    Attributes:
        outcome: of the last call, detached: the loss, the number of anchors and how many had no candidate.

    Raises:
        ValueError: a setting or a name does not exist, or a value is not allowed.
    """

    def __init__(
        self,
        config: TermConfig | None = None,
        /,
        *,
        weight: Weight | str | None = None,
        dim: int | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        named = {**settings, "weight": weight} if isinstance(weight, str) else settings
        if config is not None and (named or weight is not None):
            raise ValueError("give ContrastiveTerm a config or settings, not both")
        self.config = config if config is not None else TermConfig.of(named)
        self.objective: Objective = self._part("objective", dim)
        self.weight: Weight | None = weight if isinstance(weight, Weight) else self._part("weight", dim)
        self.mixture: Mixture | None = self._part("mixture", dim)
        self.transform: Transform | None = self._part("transform", dim)
        self.regularisers = nn.ModuleDict()
        self.coefficients: dict[str, float] = {}
        keys = [*map(registry.key, self.config.regularisers)]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise ConfigError(f"regularisers: {twice!r} is there twice, in different spellings; give it once")
        for name, given in self.config.regularisers.items():
            settings = given if isinstance(given, dict) else {"coefficient": given}
            part = registry.make("regulariser", {"name": name, **settings}, dim=dim)
            self.regularisers[name], self.coefficients[name] = part, part.config.coefficient
        if not self.objective.pairwise and (self.weight is not None or self.mixture is not None):
            part = "mixture" if self.weight is None else "weight"
            raise ConfigError(
                f"objective = {self.config.objective!r} has no candidates to weigh or to mix; use {part} = None"
            )
        draws_some = getattr(self.objective.config, "n_candidates", None) is not None
        if self.objective.as_they_are and (self.mixture is not None or draws_some):
            raise ConfigError(
                f"objective = {self.config.objective!r} takes all candidates as they are: no mixture, no n_candidates"
            )
        if self.mixture is not None and draws_some:
            raise ConfigError("a mixture is made of all candidates; leave n_candidates out")
        self.queue = self._queue(dim) if self.config.queue_size else None
        self.outcome: Outcome | None = None
        self._has_told = False

    @property
    def changing_epochs(self) -> int:
        """Epochs of a linear schedule of the temperature."""
        return self.config.temperature_epochs if self.config.temperature_schedule == "linear" else 0

    def _part(self, kind: str, dim: int | None) -> Any:
        """The part of a kind that the configuration names; None: it names none."""
        name = getattr(self.config, kind)
        if name is None:
            return None
        given = {} if dim is None else {"dim": dim}
        return registry.make(kind, {"name": name, **getattr(self.config, f"{kind}_settings")}, **given)

    def _queue(self, dim: int | None) -> Queue:
        size, config = self.config.queue_size, self.config
        if self.objective.needs_pairs:
            raise ConfigError(
                f"queue_size = {size} adds candidates, and objective = {config.objective!r} contrasts two views of the "
                "same rows and takes none; use queue_size=0 or objective='info_nce'"
            )
        if getattr(self.objective.config, "both_directions", False):
            raise ConfigError(
                f"queue_size = {size} adds candidates without a positive, which both_directions = True would make "
                "anchors of; use queue_size=0, or leave both_directions out"
            )
        if config.similarity != "cosine":
            raise ConfigError(f"queue_size = {size} keeps rows of unit length; use similarity='cosine' or queue_size=0")
        if dim is None:
            raise ValueError(f"queue_size = {size} needs dim, the width of the embeddings")
        return Queue(size, dim)

    @property
    def draws(self) -> bool:
        """Whether it needs a generator."""
        draws_candidates = getattr(self.objective.config, "n_candidates", None) is not None
        return self.mixture is not None or self.transform is not None or self.objective.draws or draws_candidates

    @property
    def parts(self) -> list[Any]:
        """All parts that there are."""
        parts = [self.objective, self.weight, self.mixture, self.transform, *self.regularisers.values()]
        return [part for part in parts if part is not None]

    def setup(self, about: About) -> None:
        """Tell all parts before training what is known of the ids."""
        for part in self.parts:
            part.setup(about)

    def compile_parts(self, backend: str = "inductor") -> None:
        """Have accelerators compute by compiled graphs what can be compiled; see :meth:`Objective.compile_parts`."""
        self.objective.compile_parts(backend)

    def prepare(self, clusterings: Callable[[], Tensor], ids: Tensor | None = None) -> None:
        """Offer clusterings to the weight; see :meth:`Weight.prepare`."""
        if self.weight is not None:
            self.weight.prepare(clusterings, ids)

    def offer(self, prototypes: Callable[[], Sequence[Tensor]]) -> None:
        """Offer prototypes to the objective; see :meth:`Objective.offer`."""
        self.objective.offer(prototypes)

    def slow_sides(self, first: Callable[[], Tensor], second: Callable[[], Tensor]) -> SlowSides:
        """What :meth:`forward` reads of both sides, encoded with the parameters that a model has at the call."""
        project = self.objective.project
        return SlowSides(project(first()) if self.objective.reads_slow else None, project(second()))

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
        labels_a: Tensor | None = None,
        labels_b: Tensor | None = None,
        further: Sequence[Tensor] = (),
        epoch: int | None = None,
        slow: SlowSides | None = None,
        again: bool = False,
    ) -> Tensor:
        """The mean loss over the anchors, and the regularisers.

        Args:
            a: [N, D].
            b: [M, D]; M = N where the rows are in pairs.
            ids_a: [N] int64, who the rows are, for weights; default: the row number.
            ids_b: [M] int64; default: ``ids_a`` where the rows are in pairs, else the row number.
            positives: the rows of ``b`` that belong to each row of ``a``: [N] int64, or N rows where an anchor may have
                several; default: the row of the same number.
            temperatures: [M], one for each row of ``b``; default: the common one.
            generator: required where the objective draws candidates (``n_candidates``), and by parts that draw
                (:attr:`draws`); on any device.
            share: the anchors of this rank, where several ranks contrast the same rows. It computes these alone where
                no anchor can be left out of the mean, else all, as every other rank does; in both cases the mean over
                ranks is the loss.
            labels_a, labels_b: [N] and [M] float, a rating or an ordered label of each row, NaN where it is not known.
            further: further views [N, D], where the rows are in pairs: an objective of three or more views contrasts
                all together, another one each pair of them, and the loss is the mean over the pairs.
            epoch: from 0, for parts that change as training goes on.
            slow: both sides as a slow copy of the model encodes them (:meth:`slow_sides`). They are what an objective
                without candidates compares the sides with; of another one b, and what is queued, is the copy's.
            again: whether these rows were contrasted before in this step, by another phase or in another pair.

        Raises:
            ValueError: the shapes do not fit, or no anchor has a candidate of positive weight, with the objective's
                ``if_none="error"``. With ``"zero"`` the loss is then 0, which is logged once.
        """
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
            raise ValueError(f"a {list(a.shape)} and b {list(b.shape)} must be [N, D] and [M, D], neither empty")
        if isinstance(positives, Ragged) and not is_accelerated(a) and not bool(positives.lengths.all()):
            row = int(positives.lengths.argmin())
            raise ValueError(f"positives: row {row} of a has none; give each row at least one row of b")
        reads_slow = slow is not None and self.objective.reads_slow
        if slow is not None and not reads_slow:
            b = slow.b.to(a.dtype)
        paired = positives is None and len(a) == len(b)
        ids_a = torch.arange(len(a), device=a.device) if ids_a is None else ids_a
        if ids_b is None:
            ids_b = ids_a if paired else torch.arange(len(b), device=b.device)
        one_a_row = (positives.lengths if isinstance(positives, Ragged) else positives, len(a))
        for name, (value, n_rows) in {
            "ids_a": (ids_a, len(a)),
            "ids_b": (ids_b, len(b)),
            "positives": one_a_row,
            "temperatures": (temperatures, len(b)),
            "labels_a": (labels_a, len(a)),
            "labels_b": (labels_b, len(b)),
        }.items():
            if value is not None and value.shape != (n_rows,):
                raise ValueError(f"{name} {list(value.shape)} must be [{n_rows}], one for each row")
        if further and (not paired or any(one.shape != a.shape for one in further)):
            raise ValueError(f"further views {[list(one.shape) for one in further]} must be of the shape of a and b")
        if reads_slow and (further or self.transform is not None):
            raise ValueError(
                f"slow: objective = {self.config.objective!r} compares two sides with those of the slow copy; leave "
                "further views and the transform out"
            )
        views = Views(
            a,
            b,
            ids_a,
            ids_b,
            positives,
            temperatures,
            generator=generator,
            share=self._split(share, positives),
            labels_a=labels_a,
            labels_b=labels_b,
            further=tuple(further),
            epoch=epoch,
            mixture=self.mixture,
            again=again,
            slow=slow if reads_slow else None,
        )
        joined = views if self.queue is None else self._with_queue(self.queue, views, aligned=slow is None)
        outcome = self._over_views(joined)
        if self.queue is not None and self.training and torch.is_grad_enabled():
            self.queue.push(unit_length(b), ids_b)
        self.outcome = Outcome(outcome.loss.detach(), outcome.n_anchors, outcome.left_out)
        self._tell(a, self.outcome)
        return outcome.loss if not self.regularisers else outcome.loss + self._regularised(views)

    def _tell(self, a: Tensor, outcome: Outcome) -> None:
        """Log the first time that no anchor of several has a candidate; an accelerator does not wait to learn it."""
        if self._has_told or outcome.n_anchors < 2 or is_accelerated(a) or int(outcome.left_out) < outcome.n_anchors:
            return
        self._has_told = True
        _log.warning(
            "none of the %d anchors has a candidate of positive weight: the contrast is 0 in this step, and nothing is "
            "said of later ones (all rows alike, or in one cluster?)",
            outcome.n_anchors,
        )

    def _with_queue(self, queue: Queue, views: Views, aligned: bool) -> Views:
        """The rows of b with those of earlier calls below them, but for those of ids that b has."""
        if views.positives is not None or views.further or len(views.a) != len(views.b):
            raise ConfigError(
                f"queue_size = {self.config.queue_size} needs two views with rows in pairs; use queue_size=0 where all "
                "rows are candidates, an anchor has several positives, or there are further views"
            )
        # queued rows are of length 1: weights and transforms see both sides so
        a = views.a if self.weight is None and self.transform is None else unit_length(views.a)
        rows, ids = queue.join(unit_length(views.b), views.ids_b, aligned)
        labels = views.labels_b
        if labels is not None:
            labels = F.pad(labels, (0, len(ids) - len(labels)), value=math.nan)
        positives = torch.arange(len(views.a), device=rows.device)
        return replace(views, a=a, b=rows, ids_b=ids, positives=positives, labels_b=labels)

    def _over_views(self, views: Views) -> Outcome:
        """The objective of all views together where it is joint, else its mean over the pairs of views."""
        if not views.further or self.objective.joint:
            return self._transformed(views)
        sides = [(views.a, views.ids_a, views.labels_a), (views.b, views.ids_b, views.labels_b)]
        sides += [(one, views.ids_a, views.labels_a) for one in views.further]
        pairs = [
            replace(views, further=(), a=a, b=b, ids_a=ids_a, ids_b=ids_b, labels_a=of_a, labels_b=of_b)
            for (a, ids_a, of_a), (b, ids_b, of_b) in combinations(sides, 2)
        ]
        return _mean(self._transformed(replace(pair, again=views.again or pair is not pairs[0])) for pair in pairs)

    def _transformed(self, views: Views) -> Outcome:
        if self.transform is None:
            outcome: Outcome = self.objective(views, self.similarity(views.epoch), self.weight)
            return outcome
        pairs, similarity = self.transform(views), self.similarity(views.epoch)
        return _mean(self.objective(replace(views, a=a, b=b), similarity, self.weight) for a, b in pairs)

    def similarity(self, epoch: int | None = None) -> Similarity:
        """The similarity of an epoch; see :class:`recgraph.contrast.schedule.ScheduledSimilarity`."""
        return self.config.at(epoch)

    def _regularised(self, views: Views) -> Tensor:
        """The sum of the regularisers of each anchor and its positive, times their coefficients; of several positives
        it is the row of the same number."""
        positives = None if isinstance(views.positives, Ragged) else views.positives
        if positives is None and len(views.a) != len(views.b):
            raise ValueError(f"regularisers ({', '.join(self.regularisers)}) need one row of b for each row of a")
        b = views.b if positives is None else views.b.index_select(0, positives)
        values = [self.coefficients[name] * part(views.a, b) for name, part in self.regularisers.items()]
        return torch.stack(values).sum()

    def _split(self, share: Share | None, positives: Tensor | Ragged | None) -> Share | None:
        """The share, where the anchors can be divided: each rank's mean is then over as many as the share says."""
        if share is None or share.is_whole or not self.objective.splits or isinstance(positives, Ragged):
            return None
        config = self.objective.config
        # else an anchor may be left out: its other candidates have weight 0, are not drawn, or are mixed
        has_others = self.weight is None and self.mixture is None and config.n_candidates is None
        counts_fully = config.count_positive and (self.weight is None or not config.weigh_positive)
        return share if has_others or counts_fully else None


def _mean(outcomes: Iterable[Outcome]) -> Outcome:
    found = list(outcomes)
    left_out = torch.stack([one.left_out for one in found]).sum()
    return Outcome(torch.stack([one.loss for one in found]).mean(), sum(one.n_anchors for one in found), left_out)
