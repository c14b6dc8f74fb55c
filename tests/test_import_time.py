"""``import recgraph`` and ``recgraph --help`` import nothing heavy: what is not used costs nothing."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"accelerate", "numpy", "optuna", "pandas", "polars", "pydantic", "scipy", "sklearn", "torch"}


def modules_after(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('MODULES', *(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(next(line for line in done.stdout.splitlines() if line.startswith("MODULES")).split()[1:])


def test_import_recgraph_is_light_and_quick() -> None:
    timed = "import time; began = time.process_time(); import recgraph; dir(recgraph)\n"
    assert modules_after(f"{timed}assert time.process_time() - began < 0.1") & HEAVY == set()


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
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

    assert all(getattr(recgraph, name) is not None for name in recgraph.__all__)
    with pytest.raises(AttributeError):
        recgraph.nope  # noqa: B018
