"""PathSim's top-k as one would write it on dense matrices: counts by scipy, the rest N x N in numpy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp

sys.path.append(str(Path(__file__).parents[1] / "ours"))

Array = npt.NDArray[np.float64]


def top_k(counts: Array, k: int) -> Array:
    """[N, N]: each row's k greatest ``2 A_ij / (A_ii + A_jj)`` with their counts; of equal ones the last."""
    diagonal = np.diag(counts)
    with np.errstate(invalid="ignore"):
        similarity = np.nan_to_num(2 * counts / (diagonal[:, None] + diagonal))
    similarity[counts == 0] = -1
    best = np.argsort(similarity, axis=1, kind="stable")[:, -k:]
    kept = np.zeros_like(counts)
    np.put_along_axis(kept, best, np.take_along_axis(counts, best, 1), 1)
    return kept


def normalise(adjacency: Array) -> Array:
    """``D^-1/2 A^T D^-1/2``, D the row sums."""
    sums = adjacency.sum(1)
    root = np.divide(1, np.sqrt(sums), out=np.zeros_like(sums), where=sums > 0)
    return root[:, None] * adjacency.T * root


def adjacency(halves: Any, k: int) -> Array:
    """The normalised top-k adjacency of a path, of which ``halves`` [N, M] is the first half."""
    return normalise(top_k((halves @ halves.T).toarray(), k))


def prepare(options: dict[str, Any]) -> Any:
    import hin

    graph, paths = hin.read(options["data"])
    top = hin.published(options["model"], Path(options["data"]).name)["top_k"]
    halves: list[Any] = []
    for path in paths:
        names = path.split("-")
        kind = next(kind for kind in graph.edge_types if [kind[0], kind[2]] == names[:2])
        halves.append(sp.csr_array(graph.adjacency(kind).to_scipy(), dtype=np.float64))

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            for half, k in zip(halves, top, strict=True):
                adjacency(half, k)
        return {"preparations": float(steps)}

    return run
