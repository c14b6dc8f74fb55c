"""From typed edges to the normalised top-k adjacencies of all meta-paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hin

from recgraph.graph.metapath import MetaPath


def prepare(options: dict[str, Any]) -> Any:
    graph, paths = hin.read(options["data"])
    top_k = hin.published(options["model"], Path(options["data"]).name)["top_k"]

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            for path, k in zip(paths, top_k, strict=True):
                MetaPath(path, top_k=k)(graph)
        return {"preparations": float(steps)}

    return run
