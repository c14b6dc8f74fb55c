"""``recgraph doctor``: versions, devices, threads, caches, which optional parts are there, and which sparse
product is fastest."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from recgraph import __version__
from recgraph.cli.output import FormatOption, show

# distribution -> (module, what it brings, how to get it)
OPTIONAL = {
    "faiss-cpu": ("faiss", "approximate nearest neighbours", "pip install 'recgraph[serve]'"),
    "tensorboard": ("tensorboard", "training curves in TensorBoard", "pip install 'recgraph[track]'"),
    "pandas": ("pandas", "pandas frames in and out", "pip install pandas"),
    "pyarrow": ("pyarrow", "arrow tables in and out", "pip install pyarrow"),
}
REQUIRED = ("torch", "numpy", "scipy", "scikit-learn", "accelerate", "polars", "narwhals", "pydantic", "typer")

Fact = tuple[str, str, str]


def doctor(form: FormatOption = None) -> None:
    """Show what a report of a problem should contain."""
    facts = [*_versions(), *_machine(), *_caches(), *_optional(), *_sparse()]
    show(({"part": part, "name": name, "value": value} for part, name, value in facts), form)


def _versions() -> Iterator[Fact]:
    yield "version", "recgraph", __version__
    yield "version", "python", f"{platform.python_version()} ({sys.executable})"
    for name in REQUIRED:
        yield "version", name, _version(name) or "MISSING: install recgraph again"


def _machine() -> Iterator[Fact]:
    import torch

    from recgraph.provenance import machine

    yield "machine", "platform", platform.platform()
    yield "machine", "threads", f"{torch.get_num_threads()} (OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', '')})"
    yield "device", "cpu", f"{machine()}, {torch.backends.cpu.get_cpu_capability()}"
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield "device", f"cuda:{index}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if torch.backends.mps.is_available():
        yield "device", "mps", "Apple GPU"


def _caches() -> Iterator[Fact]:
    from recgraph.data.catalog import home

    folder = home()
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    size = sum(path.stat().st_size for path in files) / 2**20
    place = f"{folder} ({len(files)} files, {size:.1f} MiB)" if files else f"{folder} (empty)"
    yield "cache", "prepared data", f"{place}; RECGRAPH_HOME={os.environ.get('RECGRAPH_HOME', '')}"
    yield (
        "cache",
        "writable",
        "yes" if _writable(folder) else f"NO: set RECGRAPH_HOME to a folder of yours, not {folder}",
    )


def _writable(folder: Path) -> bool:
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return os.access(existing, os.W_OK)


def _optional() -> Iterator[Fact]:
    for name, (module, purpose, how) in OPTIONAL.items():
        there = find_spec(module) is not None
        yield "optional", name, f"{_version(name) or 'there'}: {purpose}" if there else f"not there: {purpose} ({how})"


def _sparse() -> Iterator[Fact]:
    """The backends of the sparse product, timed on a small matrix (about a second)."""
    import torch

    from recgraph.sparse.timing import random_matrix, time_backends

    devices = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    for device in devices:
        adj = random_matrix(20_000, 10_000, 200_000, torch.Generator().manual_seed(0), weighted=True).to(device)
        timings = time_backends(adj)
        best = min((timing.total_ms for timing in timings if timing.total_ms is not None), default=None)
        for timing in timings:
            name = f"{timing.backend} on {device}"
            if timing.total_ms is None or best is None:
                yield "spmm", name, f"does not run: {timing.problem}"
            else:
                yield (
                    "spmm",
                    name,
                    f"{timing.total_ms / best:.1f} x the fastest ({timing.forward_ms:.1f} ms forward, "
                    f"{timing.backward_ms:.1f} ms backward)",
                )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
