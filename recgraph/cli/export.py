"""``recgraph export``: a run for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from recgraph.cli.output import note


def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A folder that `recgraph train` wrote, or a bundle.")],
    out: Annotated[Path, typer.Option("--out", help="The folder to write; an earlier export in it is replaced.")],
) -> None:
    """Write a run's model as ONNX and for torch.export, with its vectors, ids and a manifest.

    The README.md in the folder has a program that recommends with onnxruntime and NumPy alone.
    """
    from recgraph.serve.loading import bundle_of
    from recgraph.serve.recommender import Recommender

    manifest = Recommender.load(bundle_of(run)).export(out)
    graph = manifest["graph"]
    given, (returned,) = " and ".join(f"{one['name']} {one['shape']}" for one in graph["inputs"]), graph["outputs"]
    note(f"{graph['kind']}: {given} to {returned['name']} {returned['shape']}")
    note(f"{len(manifest['files'])} files in {out}; how to use them: {out / 'README.md'}")
