"""MCLRec: two augmented views of each sequence, and latent views of these by learned augmenters."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor, nn

from recgraph import augment
from recgraph.augment.latent import Augmenter
from recgraph.config import PartConfig, Search
from recgraph.contrast.regularisers import Margin
from recgraph.contrast.term import ContrastiveTerm
from recgraph.data.batches import SequenceBatch
from recgraph.models.base import Phase, Space
from recgraph.models.sequence.contrastive import (
    ContrastiveConfig,
    ContrastiveSequenceModel,
    Encoded,
)
from recgraph.registry import part


class MCLRecConfig(ContrastiveConfig):
    view_weight: Annotated[
        float,
        Field(ge=0, description="lambda, weight of cl1, the contrast of the stochastic views"),
        Search(1e-3, 0.5, log=True),
    ] = 0.03
    latent_weight: Annotated[
        float,
        Field(
            ge=0,
            description="beta, weight of cl2, the contrast with the latent views; 0: no such views",
        ),
        Search(1e-3, 0.5, log=True),
    ] = 0.05
    margin_weight: Annotated[
        float,
        Field(ge=0, description="gamma, weight of the margin regulariser beside cl2"),
        Search(1e-3, 1.0, log=True),
    ] = 0.1
    augmenter: Annotated[PartConfig, part("augmenter"), Field(description="of encoded views")] = (
        augment.MLP()
    )
    shared_augmenter: Annotated[bool, Field(description="one augmenter for both views")] = False
    schedule_of_phases: Annotated[
        Literal["published", "paper", "joint"],
        Field(
            description="encoder-augmenters-encoder on each batch, encoder-augmenters, or one step on everything"
        ),
    ] = "published"
    margin_form: Annotated[
        Literal["published", "paper"],
        Field(description="margin over the three pairs of views, or over (z1, z2) alone"),
    ] = "published"


class MCLRec(ContrastiveSequenceModel):
    """Meta-optimised contrastive learning: SASRec whose views are varied once more by learnable
    augmenters.

    Source: Qin et al., Meta-optimized Contrastive Learning for Sequential Recommendation (SIGIR
    2023). With h1, h2 the encoded stochastic views, z1, z2 = augmenters(h1, h2), and L the
    configured contrast (by default NT-Xent):

    - ``cl1 = L(h1, h2)`` at ``contrast.temperature``;
    - ``cl2 = L(z1, z2) + L(h1, z2) + L(h2, z1)``, inner products at temperature 1;
    - ``reg = R(h1, z2) + R(h2, z1) + R(z1, z2)`` as published (``margin_form="paper"``: R(z1, z2),
      global margins).

    With ``items.graph_weight`` and an augmenter of the items' graph, that one is of the augmenters,
    whose step has ``items`` in its loss, too.

    The encoder takes a step on ``rec + lambda cl1 + beta (cl2 + gamma reg)``, the augmenters on
    ``cl2 + gamma reg``; the published code then repeats the encoder's step, the paper does not, and
    ``joint`` makes one step on everything. ``augmentations=()``: the augmenters vary the sequence
    itself; ``latent_weight=0`` leaves them out (CL4SRec). Departures: the augmenter step does not
    encode the original sequence and carries no gradient into the frozen encoder; the default
    augmenters do not mix the rows of a batch; the causal regime (see :class:`SASRec`).
    """

    Config = MCLRecConfig

    def _build(self, space: Space) -> None:
        super()._build(space)
        config = self.config
        first = config.augmenter.build(hidden_dim=config.hidden_dim)
        self.augmenters = nn.ModuleList([first])
        if not config.shared_augmenter:
            self.augmenters.append(config.augmenter.build(hidden_dim=config.hidden_dim))
        self.needs_states = first.needs_states
        self.needs_full_batches = first.batch_size is not None
        # of three pairs in each of two or three phases a queue would hold the same rows many times
        latent = config.contrast.model_copy(
            update={"temperature": 1.0, "similarity": "dot", "queue_size": 0}
        )
        self.latent_contrast = ContrastiveTerm(latent, dim=config.hidden_dim)
        scope = "row" if config.margin_form == "published" else "batch"
        self.margin = Margin(temperature=config.contrast.temperature, scope=scope)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        augmenters = list(self.augmenters.parameters())
        # without a latent contrast there is one phase, the encoder's, which trains the augmenter of
        # items, too
        if self.config.latent_weight and self._item_augmenter is not None:
            augmenters += self._item_augmenter.parameters()
        ids = set(map(id, augmenters))
        encoder = [parameter for parameter in self.parameters() if id(parameter) not in ids]
        return {"encoder": encoder, "augmenters": augmenters}

    @property
    def _item_augmenter(self) -> Augmenter | None:
        return None if self.item_graph is None else self.item_graph.augmenter

    @property
    def phases(self) -> tuple[Phase, ...]:
        config = self.config
        terms = {
            "rec": 1.0,
            "cl1": config.view_weight,
            "cl2": config.latent_weight,
            "reg": config.latent_weight * config.margin_weight,
            "items": config.items.graph_weight,
            "intent": config.intent_weight,
        }
        encoder = Phase("encoder", ("encoder",), terms)
        if not config.latent_weight:
            return (encoder,)
        if config.schedule_of_phases == "joint":
            return (Phase("joint", ("encoder", "augmenters"), terms),)
        latent = {"cl2": 1.0, "reg": config.margin_weight}
        if self._item_augmenter is not None:
            latent["items"] = config.items.graph_weight
        augmenters = Phase("augmenters", ("augmenters",), latent)
        if config.schedule_of_phases == "published":
            return (encoder, augmenters, encoder)
        return (encoder, augmenters)

    def contrasts(
        self, batch: SequenceBatch, views: list[Encoded], wanted: frozenset[str]
    ) -> dict[str, Tensor]:
        terms = super().contrasts(batch, views, wanted)
        if not wanted & {"cl2", "reg"}:
            return terms
        one, two = views[:2]
        h1, h2 = one.last, two.last
        if self.config.gather_negatives:
            # of rows that all ranks have they draw the same
            generator = batch.generators["augmenters"]
        else:
            generator = batch.generators.of_rank("augmenters")
        z1: Tensor = self.augmenters[0](h1, one.states, generator)
        z2: Tensor = self.augmenters[-1](h2, two.states, generator)
        if "cl2" in wanted:
            term = self.latent_contrast
            terms["cl2"] = (
                self.contrast_by(term, batch, z1, z2)
                + self.contrast_by(term, batch, h1, z2)
                + self.contrast_by(term, batch, h2, z1)
            )
        if "reg" in wanted:
            pairs = [(z1, z2)]
            if self.config.margin_form == "published":
                pairs += [(h1, z2), (h2, z1)]
            terms["reg"] = self.margin.over(pairs)
        return terms
