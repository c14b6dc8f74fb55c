"""``import recgraph`` and ``recgraph --help`` import nothing heavy: what is not used costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {
    "accelerate",
    "dgl",
    "faiss",
    "numpy",
    "optuna",
    "pandas",
    "polars",
    "pydantic",
    "scipy",
    "sklearn",
    "torch",
    "torch_geometric",
}


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('MODULES', *(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    line = next(line for line in done.stdout.splitlines() if line.startswith("MODULES"))
    return set(line.split()[1:])


def test_import_recgraph_is_light() -> None:
    assert modules_after("import recgraph; recgraph.__version__; dir(recgraph)") & HEAVY == set()


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["train", "--help"], ["data", "--help"], ["recommend", "--help"], ["tune", "--help"]],
)
def test_help_is_light(arguments: list[str]) -> None:
    code = (
        "from recgraph.cli.app import main\n"
        f"sys.argv = ['recgraph', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code, stop.code"
    )
    # typer itself looks whether parameters are pydantic models
    assert modules_after(code) & (HEAVY - {"pydantic"}) == set()


def test_public_names_are_found() -> None:
    import recgraph

    for name in recgraph.__all__:
        assert getattr(recgraph, name) is not None


def test_unknown_name_lists_the_known() -> None:
    import recgraph

    with pytest.raises(AttributeError, match=r"no attribute 'nope'; it has .*fit"):
        recgraph.nope  # noqa: B018
