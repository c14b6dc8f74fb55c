"""The import of DGL beside a current torch."""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from types import ModuleType
from typing import Any


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
    try:
        import packaging.version

        # DGL looks for it inside setuptools, which no longer carries it
        extern = ModuleType("setuptools.extern")
        extern.packaging = packaging  # type: ignore[attr-defined]
        sys.modules.setdefault("setuptools.extern", extern)
        sys.modules.setdefault("setuptools.extern.packaging", packaging)
        sys.modules["dgl.graphbolt"] = ModuleType("dgl.graphbolt", "left out by recgraph: no build for this torch")
        # without a choice DGL asks for one on stderr and writes a file to the user's home
        os.environ.setdefault("DGLBACKEND", "pytorch")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("dgl")
    except Exception as error:  # DGL raises whatever its native parts raise
        for name in [name for name in sys.modules if name == "dgl" or name.startswith("dgl.")]:
            del sys.modules[name]
        how = "pip install 'recgraph[dgl]' (Linux, Python < 3.13)"
        raise ImportError(f"DGL cannot be used here: {type(error).__name__}: {error}. Get it with {how}") from error
