"""Sparse times dense by DGL (``dgl.ops.gspmm``), and the import of DGL beside a current torch."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from types import ModuleType
from typing import Any

from torch import Tensor

from recgraph.sparse.csr import Csr

_HOW = "pip install 'recgraph[dgl]' (Linux, Python < 3.13)"


def load() -> Any:
    """The package ``dgl``, imported so that it works beside torch 2.13.

    DGL 2.1.0, the newest wheel for Linux, needs on import a GraphBolt library built for the very torch version and
    ``torchdata.datapipes``, which no longer exists. An empty module in the place of ``dgl.graphbolt`` passes both by;
    heterographs, message passing with gradients and samplers work, ``dgl.sparse`` and GraphBolt do not. Nothing is
    changed where DGL is imported already.

    Raises:
        ImportError: DGL is not there or does not import; says why and how to get it.
    """
    if "dgl" in sys.modules:
        return sys.modules["dgl"]
    _alias_packaging()
    sys.modules["dgl.graphbolt"] = ModuleType("dgl.graphbolt", "left out by recgraph: no build for this torch")
    # without a choice DGL asks for one on stderr and writes a file to the user's home
    os.environ.setdefault("DGLBACKEND", "pytorch")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("dgl")
    except Exception as error:  # DGL raises whatever its native parts raise
        for name in [name for name in sys.modules if name == "dgl" or name.startswith("dgl.")]:
            del sys.modules[name]
        raise ImportError(f"DGL cannot be used here: {type(error).__name__}: {error}. Get it with {_HOW}") from error


def _alias_packaging() -> None:
    """DGL looks for ``packaging`` inside setuptools, which no longer carries it, where it finds none outside."""
    if "setuptools.extern.packaging" in sys.modules:
        return
    try:
        import packaging.version
    except ImportError as error:
        raise ImportError(f"DGL needs the package 'packaging'. Get both with {_HOW}") from error
    extern = ModuleType("setuptools.extern")
    extern.packaging = packaging  # type: ignore[attr-defined]
    sys.modules.setdefault("setuptools.extern", extern)
    sys.modules["setuptools.extern.packaging"] = packaging


def product(adj: Csr, x: Tensor) -> Tensor:
    """See :func:`recgraph.sparse.spmm.spmm`."""
    dgl = load()
    graph = adj.shared("dgl", lambda: _graph(dgl, adj))
    if adj.weights is None:
        return dgl.ops.gspmm(graph, "copy_lhs", "sum", x, None)  # type: ignore[no-any-return]
    return dgl.ops.gspmm(graph, "mul", "sum", x, adj.weights.to(x.dtype)[:, None])  # type: ignore[no-any-return]


def _graph(dgl: Any, adj: Csr) -> Any:
    """Columns send, rows receive; edge ``e`` is entry ``e``."""
    return dgl.heterograph(
        {("column", "to", "row"): ("csc", (adj.indptr, adj.indices, adj.indices.new_empty(0)))},
        num_nodes_dict={"column": adj.shape[1], "row": adj.shape[0]},
    )
