"""ItemKNN on Gowalla as BARS scores it: ``python -m experiments.itemknn_bars FOLDER`` (of train, valid and test.txt).

With m_i the share of users who have item i, the published baseline scores ``m_i + sum_j s_ij (x_j - m_j)`` over the
neighbours j of i, whose similarities s sum to 1; ours has no m. What the means add is the same for all users.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from experiments.closed_form_split import FIT_ON, measured, read
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.models.closed_form.neighbours import ItemKNN, fit_rows


class WithMeans(ItemKNN):
    """The published form."""

    added: Tensor

    def fit(self, train: Part) -> Self:
        super().fit(train)
        rows = fit_rows(self, train, self.similarities.device)
        means = torch.bincount(rows.values, minlength=train.n_items) / rows.n_rows
        self.added = means - (self.similarities * means[self.neighbours]).sum(1)
        return self

    def score(self, query: Query) -> Tensor:
        return super().score(query) + self.added


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.itemknn_bars", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fit-on", choices=FIT_ON, default="train+valid")
    chosen = parser.parse_args(argv)
    settings = {"k": 100, "shrink": 0.0, "normalise": True}
    line = measured(lambda space: WithMeans(**settings).build(space, 0), read(chosen.folder), chosen.fit_on)
    print(json.dumps({"model": "ItemKNN with the items' means", "settings": settings, **line}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
