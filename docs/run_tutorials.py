"""Run the notebooks of ``docs/tutorials`` and keep what they print: ``python docs/run_tutorials.py
[NAME ...]``.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

TUTORIALS = Path(__file__).resolve().parent / "tutorials"
#: of one cell
_TIMEOUT_SECONDS = 300


class _Kernels(AsyncKernelManager):
    """Kernels that talk through files: sockets of the network are open to every user of the
    machine.
    """

    def __init__(self, **traits: Any) -> None:
        connection = Path(tempfile.mkdtemp(prefix="kernel-")) / "kernel.json"
        super().__init__(transport="ipc", connection_file=str(connection), **traits)

    async def cleanup_resources(self, restart: bool = False) -> None:
        await super().cleanup_resources(restart)
        if not restart:
            shutil.rmtree(Path(self.connection_file).parent, ignore_errors=True)


def run(
    path: Path, folder: Path, programs: Path = Path(sys.executable).parent
) -> nbformat.NotebookNode:
    """Run a notebook in a folder, where it may leave files -> the notebook with its outputs.

    Args:
        programs: the folder of the command ``recgraph`` of the cells; that of this environment.

    Raises:
        CellExecutionError: a cell fails; shows the cell and its traceback.
    """
    notebook = nbformat.read(path, as_version=4)
    before = dict(os.environ)
    os.environ.update(
        PATH=os.pathsep.join((str(programs), os.environ.get("PATH", ""))),
        OMP_NUM_THREADS="1",
        TERM="dumb",
        COLUMNS="110",
    )
    try:
        resources = {"metadata": {"path": str(folder)}}
        client = NotebookClient(
            notebook,
            kernel_manager_class=_Kernels,
            timeout=_TIMEOUT_SECONDS,
            startup_timeout=_TIMEOUT_SECONDS,
            resources=resources,
            record_timing=False,
            coalesce_streams=True,
        )
        return client.execute()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _is_read(output: Any) -> bool:
    """Whether it is there without a kernel: a bar that moves is not."""
    data = output.get("data", {})
    return not any("widget" in form for form in data) and data.get("text/plain") != ""


def main(names: list[str]) -> None:
    """Run some notebooks, or all, and write each again with its outputs."""
    paths = [TUTORIALS / f"{name}.ipynb" for name in names] or sorted(TUTORIALS.glob("*.ipynb"))
    for path in paths:
        with tempfile.TemporaryDirectory() as folder:
            notebook = run(path, Path(folder))
            notebook.metadata.pop("widgets", None)
            for cell in notebook.cells:
                cell.get("outputs", [])[:] = filter(_is_read, cell.get("outputs", []))
            text = nbformat.writes(notebook).replace(folder, "~")
        temporary = path.with_name(f".{path.name}")
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)
        print(f"{path.name}: {len(notebook.cells)} cells")


if __name__ == "__main__":
    main(sys.argv[1:])
