"""Two towers that learn from a teacher's scores: settings, the teacher, and its scores of a batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Annotated, Any

import torch
from pydantic import BeforeValidator, Field
from torch import Tensor

from recgraph.blocks import row_blocks
from recgraph.config import Added, Search
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.losses.distil import DistilBy, distil_loss
from recgraph.models.base import Model, ModelConfig

__all__ = ["DistilConfig", "Teacher", "distilled", "teacher_reads_times"]


def _as_text(teacher: Any) -> Any:
    """A path as text; an empty one would be the current folder."""
    if isinstance(teacher, os.PathLike):
        teacher = os.fspath(teacher)
    if teacher == "":
        raise ValueError("it is empty; give the folder of a run or of a bundle, or none")
    return teacher


class DistilConfig(ModelConfig):
    """Settings of models that can learn from a teacher beside their own loss."""

    teacher: Annotated[
        str | None,
        BeforeValidator(_as_text),
        Field(description="folder of a run or bundle on the same split, whose scores the model also learns; none"),
        Added(),
    ] = None
    distil_weight: Annotated[
        float,
        Field(ge=0, description="of the teacher's term"),
        Search(1e-2, 10.0, log=True),
        Added(),
    ] = 1.0
    distil_by: Annotated[
        DistilBy,
        Field(description="the divergence of the distributions over candidates, or regression of centred scores"),
        Search(choices=("kl", "regression")),
        Added(),
    ] = "kl"
    distil_temperature: Annotated[
        float,
        Field(gt=0, description="of both distributions"),
        Search(0.1, 10.0, log=True),
        Added(),
    ] = 1.0
    distil_candidates: Annotated[
        int,
        Field(ge=2, description="candidates: half the teacher's best for each sample, half drawn for the batch"),
        Added(),
    ] = 128

    @property
    def distil_coefficient(self) -> float:
        """Of the term ``distil``; 0 without a teacher."""
        return 0.0 if self.teacher is None else self.distil_weight


class Teacher:
    """A fitted model whose scores are learned. It is no part of the student: neither its weights nor its bundle.

    Any model that ranks is one, also such as have no vectors and see user and candidate together (EASE, SLIM, a model
    with ``score`` of its own).

    Args:
        model: built and fitted.
        n_candidates: K.
    """

    def __init__(self, model: Model, n_candidates: int) -> None:
        self.model, self.n_candidates = model.eval().requires_grad_(False), n_candidates

    @classmethod
    def of(cls, model: Model) -> Teacher:
        """The teacher that a model was given.

        Raises:
            ValueError: it was given none.
        """
        if not isinstance(model.teacher, cls):
            raise ValueError(
                f"teacher = {model.config.teacher!r} is not read: rg.fit reads it; to train on without it, give "
                "teacher=None"
            )
        return model.teacher

    @torch.no_grad()
    def __call__(self, query: Query, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """[B, K] int64 candidates and [B, K] their scores; all scores are there for a block of rows alone.

        The first half are the teacher's best, best first; the others are drawn, all items equally likely, the same for
        all rows, so that an item may be there twice.
        """
        device = query.users.device
        self.model.to(device)
        assert self.model.space is not None
        n_items = self.model.space.n_items
        n_best = min(self.n_candidates // 2, n_items)
        size = (self.n_candidates - n_best,)
        drawn = torch.randint(n_items, size, generator=generator, device=generator.device).to(device)
        candidates, scores = [], []
        like = torch.empty(0, device=device)
        for rows in row_blocks(len(query), n_items, like):
            every = self.model.score(query.rows(rows.start, min(rows.stop, len(query))))
            best, places = every.topk(n_best, 1)
            candidates.append(torch.cat([places, drawn.expand(len(every), -1)], 1))
            scores.append(torch.cat([best, every.index_select(1, drawn)], 1))
        return torch.cat(candidates), torch.cat(scores)


def teacher_reads_times(model: Model, train: Part) -> bool:
    """Whether a model's teacher reads the times of histories, and the training part has them."""
    return isinstance(model.teacher, Teacher) and model.teacher.model.reads_times and train.times is not None


def distilled(
    model: Model, query: Query, generator: torch.Generator, users: Tensor, vectors_of: Callable[[Tensor], Tensor]
) -> Tensor:
    """How the scores of a model differ from its teacher's, for the candidates that this gives.

    Args:
        query: what the teacher reads.
        generator: draws candidates.
        users: [B, D], the model's vectors of the same rows.
        vectors_of: [B, K] items -> [B, K, D], the model's vectors.
    """
    candidates, wanted = Teacher.of(model)(query, generator)
    scores = torch.einsum("bd,bkd->bk", users, vectors_of(candidates))
    return distil_loss(scores, wanted, model.config.distil_by, model.config.distil_temperature)
