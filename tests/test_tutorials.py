"""The notebooks of docs/tutorials run from beginning to end."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from types import ModuleType

import forked
import nbformat
import polars as pl
import pytest

from recgraph.data.interactions import Interactions

DOCS = Path(__file__).resolve().parents[1] / "docs"
NOTEBOOKS = sorted((DOCS / "tutorials").glob("*.ipynb"))


@pytest.fixture(scope="session")
def runner() -> ModuleType:
    spec = importlib.util.spec_from_file_location("run_tutorials", DOCS / "run_tutorials.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


#: what a notebook says -> what says it on a smaller scale
SMALLER = {
    r'(max_epochs"?\W{1,3})\d+': r"\g<1>1",
    r"(hidden_dim\W{1,3})32": r"\g<1>8",
    r"(--trials |n_trials=)6": r"\g<1>2",
    r"--trials 8": "--trials 3",
    r"^seeds = \[0, 1\]": "seeds = [0]",
}


def check(path: Path, runner: ModuleType, folder: Path, **more: Path) -> None:
    """Run a notebook: every cell in its turn."""
    done = runner.run(path, folder, **more)
    code = [cell for cell in done.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))


@pytest.fixture(scope="session")
def fewer_movies(movies: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a fifth of the users."""
    from recgraph.data.catalog import get, load_dataset

    home = tmp_path_factory.mktemp("fewer") / "home"
    shutil.copytree(movies, home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECGRAPH_HOME", str(home))
        data = load_dataset("ml-100k")
        Interactions.from_frame(
            data.to_frame().filter(pl.col("user_id") <= 200),
            user="user_id",
            item="item_id",
            timestamp="timestamp",
            rating="rating",
            item_features=data.item_features,
            user_features=data.user_features,
        ).save(get("ml-100k").path)
        assert load_dataset("ml-100k").n_users == 200
    return home


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(
    path: Path, runner: ModuleType, fewer_movies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer users, trainings of an epoch, and a kernel and commands that need not import the library first."""
    monkeypatch.setenv("RECGRAPH_HOME", str(fewer_movies))
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        for said, smaller in SMALLER.items():
            cell.source = re.sub(said, smaller, cell.source, flags=re.MULTILINE)
    nbformat.write(notebook, tmp_path / path.name)
    for name in ("programs", "work"):
        (tmp_path / name).mkdir()
    forked.write_program(tmp_path / "programs")
    kernel = forked.command_of("ipykernel_launcher")
    monkeypatch.setattr(
        runner._Kernels,
        "format_kernel_cmd",
        lambda manager, extra_arguments=None: [*kernel, "-f", manager.connection_file],
    )
    check(tmp_path / path.name, runner, tmp_path / "work", programs=tmp_path / "programs")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_as_it_is(
    path: Path, runner: ModuleType, movies: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(movies))
    check(path, runner, tmp_path)


def test_there_is_a_notebook_a_trade_with_its_outputs() -> None:
    assert [path.stem for path in NOTEBOOKS] == [
        "board_author",
        "engineer",
        "graph_person",
        "operator",
        "researcher",
        "tuner",
    ]
    for path in NOTEBOOKS:
        code = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
        assert all(cell.execution_count for cell in code), f"{path.name}: python docs/run_tutorials.py {path.stem}"
        assert "/tmp/" not in json.dumps([cell.outputs for cell in code]), f"{path.name} names a folder of its author"
