"""The benchmarks of the graph line: epochs and preparation beside dense ones, products, and rates
of the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.bench.harness import Side
from experiments.bench.report import Goal, Reference
from experiments.bench.suite import Bench
from recgraph.registry import members

# a user-item matrix with weights, as in docs/concepts.md
MATRIX = {"n_rows": 100_000, "n_cols": 50_000, "n_entries": 2_000_000, "width": 64}
#: epochs a second of the published code (facts of this kind of machine, one thread)
_PUBLISHED = {
    ("MEOW", "acm"): (1 / 1.94, 1 / 1.94),
    ("MEOW", "imdb"): (1 / 3.45, 1 / 3.45),
    ("AdaMEOW", "acm"): (1 / 40, 1 / 35),
}
_GOALS = {
    ("MEOW", "acm"): Goal(3, peak_mb=700),
    ("MEOW", "imdb"): Goal(3, peak_mb=700),
    ("AdaMEOW", "acm"): Goal(least=1 / 1.5, peak_mb=1024),
    ("AdaMEOW", "imdb"): Goal(least=1 / 1.5, peak_mb=1024),
}


def graph_suite(folder: Path, device: str = "cpu") -> Iterator[Bench]:
    """The benchmarks, on HeCo's files in ``folder`` (``acm``, ``imdb``) and on what is drawn."""
    for (model, dataset), goal in _GOALS.items():
        options = {
            "data": str(folder / dataset),
            "model": model,
            "device": device,
            "steps": 3,
            "warmup": 2,
        }
        published = _PUBLISHED.get((model, dataset))
        yield Bench(
            f"{model.lower()}-{dataset}",
            "epochs",
            Side(f"recgraph {model}", "ours/graphs.py:node_epoch", options),
            Side(
                "the same epoch on dense matrices",
                "plain/dense.py:dense_metapath",
                {**options, "steps": 1, "warmup": 1},
            ),
            goal,
            None if published is None else Reference(f"published {model} code", *published),
        )
    for dataset in ("acm", "imdb"):
        options = {"data": str(folder / dataset), "model": "MEOW", "steps": 1, "warmup": 1}
        yield Bench(
            f"pathsim-{dataset}",
            "preparations",
            Side(
                "recgraph meta-paths, PathSim top-k, normalised", "ours/graphs.py:pathsim", options
            ),
            Side("dense PathSim in numpy", "plain/dense.py:dense_pathsim", options),
            Goal(least=1, peak_mb=700),
            Reference(
                "published preprocessing",
                *((1 / 10.4,) * 2 if dataset == "acm" else (1 / 18.9,) * 2),
            ),
        )
    yield from _kernels(device)


def _kernels(device: str) -> Iterator[Bench]:
    product: dict[str, Any] = {
        **MATRIX,
        "device": device,
        "backward": True,
        "steps": 5,
        "warmup": 2,
    }

    def backend(name: str) -> Side:
        return Side(
            f"recgraph spmm, backend {name}", "ours/graphs.py:spmm", {**product, "backend": name}
        )

    yield Bench(
        "spmm",
        "products",
        backend("auto"),
        Side(
            "torch.sparse CSR and its autograd",
            "plain/device.py:torch_spmm",
            {**product, "steps": 2},
        ),
        others=(backend("pyg"), backend("dgl")),
    )
    forward = {**product, "backward": False, "backend": "auto", "steps": 20}
    yield Bench(
        "spmm-bandwidth",
        "GB",
        Side("recgraph spmm, what it must read and write", "ours/graphs.py:spmm", forward),
        Side(
            "copies of the same device",
            "plain/device.py:copies",
            {"device": device, "mb": 256, "steps": 20, "warmup": 2},
        ),
    )
    rows = {"n_rows": 8192, "width": 64, "device": device, "steps": 2, "warmup": 1}
    yield Bench(
        "contrast-rate",
        "GFLOP",
        Side("recgraph MEOW InfoNCE in blocks, with gradients", "ours/graphs.py:contrast", rows),
        Side("matrix products of its shapes alone", "plain/device.py:matmul", rows),
    )
    yield _contrast_parts(device)


def _contrast_parts(device: str) -> Bench:
    """Plain InfoNCE in blocks beside all pairs at once, and beside it every part that a term can
    have.
    """
    rows: dict[str, Any] = {"n_rows": 4096, "width": 64, "device": device, "steps": 1, "warmup": 1}

    def side(name: str, term: dict[str, Any] | None) -> Side:
        return Side(name, "ours/graphs.py:contrast_parts", {**rows, "term": term})

    kinds = ("objective", "weight", "transform")
    parts = [
        side(f"{kind} {name}", {kind: name})
        for kind in kinds
        for name in members(kind).values()
        if name != "info_nce"
    ]
    parts += [
        side(f"regulariser {name}", {"regularisers": [name]})
        for name in members("regulariser").values()
    ]
    parts.append(side("queue of 4,096 rows", {"queue_size": 4096}))
    return Bench(
        "contrast-parts",
        "pairs",
        side("recgraph InfoNCE in blocks, with gradients", {}),
        side("all pairs at once", None),
        others=tuple(parts),
    )
