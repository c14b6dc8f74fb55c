"""The relevant items of all users, ready to be looked up in ranked lists."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recgraph.data.part import Cases
from recgraph.sparse.ragged import Ragged


@dataclass(frozen=True)
class Truth:
    """Relevant items, each once.

    Attributes:
        keys: [T] int64, ascending: ``row * n_items + item``.
        grades: [T] float64, aligned, or None; an item that is given twice counts with its highest grade.
        n_relevant: [U] int64.
        n_items: the size of the catalogue.
    """

    keys: Tensor
    grades: Tensor | None
    n_relevant: Tensor
    n_items: int

    @classmethod
    def of(cls, cases: Cases) -> Truth:
        """Read the truth of cases.

        Raises:
            ValueError: an item index outside the catalogue, or a grade that is not positive and finite.
        """
        values = cases.truth.values
        if bool(((values < 0) | (values >= cases.n_items)).any()):
            raise ValueError(f"cases.truth holds an item outside 0 to {cases.n_items - 1}")
        keys, inverse = torch.unique(cases.truth.rows * cases.n_items + values, return_inverse=True)
        n_relevant = torch.bincount(keys // cases.n_items, minlength=len(cases))
        grades = None
        if cases.grades is not None:
            given = cases.grades.double()
            if not bool(((given > 0) & given.isfinite()).all()):
                raise ValueError("cases.grades must be positive and finite; leave items of grade 0 out of the truth")
            grades = torch.zeros(keys.numel(), dtype=torch.float64)
            grades.scatter_reduce_(0, inverse, given, "amax")
        return cls(keys, grades, n_relevant, cases.n_items)

    @property
    def graded(self) -> bool:
        return self.grades is not None

    def find(self, rows: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Look lists up.

        Args:
            rows: [B] int64, rows of the cases.
            items: [B, K] int64, -1 for padding.

        Returns:
            places [B, K] among :attr:`keys` (any where not found) and found [B, K] bool.
        """
        wanted = torch.where(items < 0, -1, rows[:, None] * self.n_items + items)
        places = torch.searchsorted(self.keys, wanted).clamp(max=self.keys.numel() - 1)
        return places, self.keys[places] == wanted

    def ideal_gains(self, depth: int) -> Tensor | None:
        """[U, depth] float64: each user's grades in descending order, padded with 0; None where binary."""
        if self.grades is None:
            return None
        rows = self.keys // self.n_items
        by_grade = self.grades.argsort(descending=True, stable=True)
        order = by_grade[rows[by_grade].argsort(stable=True)]
        sorted_grades = Ragged.from_lengths(self.grades[order], self.n_relevant)
        return sorted_grades.first(self.n_relevant.clamp(max=depth)).to_padded(width=depth)
