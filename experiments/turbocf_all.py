"""Turbo-CF on Gowalla by scipy: ``python -m experiments.turbocf_all FOLDER`` (of train, valid and test.txt).

The publication's equation with its settings for Gowalla, in the fewest lines: it shows whether a difference between the
library's ``turbocf`` with ``k=None`` and the published figure is one of the library.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Self

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from experiments.closed_form_split import FIT_ON, measured, read
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.models.closed_form.graph_filters import TurboCF
from recgraph.sparse.ragged import Ragged


def matrix(rows: Ragged, n_items: int) -> sp.csr_array:
    """Binary [rows, n_items]."""
    ones = np.ones(len(rows.values))
    return sp.csr_array((ones, rows.values.numpy(), rows.offsets.numpy()), shape=(rows.n_rows, n_items))


class AllEntries(TurboCF):
    """``x (R~' R~) ** s`` with nothing left out."""

    def fit(self, train: Part) -> Self:
        log, alpha = matrix(train.items, train.n_items), self.config.user_power
        of_users, of_items = (np.maximum(log.sum(axis), 1.0) for axis in (1, 0))
        scaled = sp.diags_array(of_users**-alpha) @ log @ sp.diags_array(of_items ** (alpha - 1))
        self.graph = (scaled.T @ scaled).tocsr()
        self.graph.data **= self.config.power
        return self

    def score(self, query: Query) -> Tensor:
        found = matrix(query.history, self.graph.shape[0]) @ self.graph
        return torch.from_numpy(found.toarray())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.turbocf_all", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fit-on", choices=FIT_ON, default="train+valid")
    chosen = parser.parse_args(argv)
    settings = {"user_power": 0.6, "power": 0.7, "k": None}
    line = measured(lambda space: AllEntries(**settings).build(space, 0), read(chosen.folder), chosen.fit_on)
    print(json.dumps({"model": "Turbo-CF by scipy", "settings": settings, **line}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
