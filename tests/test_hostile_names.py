"""Names of others that are paths, modules or dotted names: they name nothing that there is, and import nothing.

Of bundles: tests/serve/test_hostile_bundles.py.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import call

from recgraph import registry
from recgraph.config import ConfigError
from recgraph.leaderboard.board import load_board

#: names that some loader of Python follows to the module `trap`; {0} is its folder
NAMES = [
    *("trap", "trap:Trap", "trap.Trap", "trap.py", "./trap.py", "../trap", "{0}/trap.py", "{0}/trap.py:Trap"),
    *("file://{0}/trap.py", "__import__('trap')", "recgraph.models:trap", "trap.py\0"),
    *("TRAP", "t_rap", "!!python/x:trap"),
]
STUDY = Path(__file__).parent / "tuning" / "old_study"
EARLIER = Path(__file__).parent / "runs" / "earlier" / "sasrec"


pytestmark = pytest.mark.usefixtures("trap")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", registry.kinds())
def test_the_registry_imports_its_own_members_alone(kind: str, name: str, tmp_path: Path) -> None:
    name = name.format(tmp_path)
    for ask in (
        lambda: registry.load(kind, name),
        lambda: registry.make(kind, name),
        lambda: registry.make(kind, {"name": name}),
        lambda: registry.load(name, "sasrec"),
    ):
        with pytest.raises(ValueError, match=r"does not exist|is not known"):
            ask()


@pytest.mark.parametrize("name", [None, 3, ["sasrec"], {"name": "sasrec"}, b"sasrec", object])
def test_names_that_are_no_texts(name: Any) -> None:
    for ask in (lambda: registry.load("model", name), lambda: registry.make("model", {"name": name})):
        with pytest.raises(ValueError, match=r"model = .* must be a name, e\.g\. 'adameow'"):
            ask()
    with pytest.raises(ValueError, match="is not known; the kinds are"):
        registry.load(name, "sasrec")


@pytest.mark.parametrize("name", ["trap:Trap", "{0}/trap.py:Trap"])
def test_a_study_a_board_and_a_configuration_import_nothing(name: str, tmp_path: Path) -> None:
    name = name.format(tmp_path)
    study = Path(shutil.copytree(STUDY, "study"))
    held = json.loads((study / "study.json").read_text())
    given = {"model": name, "objective": name, "modules": [name], "metrics": [name], "sampler": name, "import": [name]}
    (study / "study.json").write_text(json.dumps({**held, **given}))
    call("study", str(study))
    folder = tmp_path / "shop"
    folder.mkdir()
    for entry in (f"model = {json.dumps(name)}", f'model = "sasrec"\nsettings = {{ encoder = {json.dumps(name)} }}'):
        (folder / "synthetic.toml").write_text(
            f'title = "t"\nseeds = [0]\nmetrics = ["ndcg@10"]\n[protocol]\ncutoffs = [10]\n[[models]]\n{entry}\n'
        )
        if "encoder" not in entry:
            assert call("leaderboard", "run", str(folder), "--results", "kept").exit_code != 0
            with pytest.raises(ConfigError, match=r"board '.*synthetic\.toml': models: model '.*' does not exist"):
                load_board(folder)
    Path("config.toml").write_text(f"[model]\nencoder = {json.dumps(name)}\n[training]\ntrack = {json.dumps(name)}\n")
    for more in (["-c", "config.toml"], ["--set", f"encoder={name}"], ["--set", f"loss={name}"]):
        done = call("train", "sasrec", "-d", "synthetic", "-o", "run", *more)
        assert done.exit_code != 0, done.output
    for command in (["train", name, "-d", "synthetic"], ["train", "sasrec", "-d", name], ["tune", name]):
        assert call(*command).exit_code != 0


@pytest.mark.parametrize("name", ["trap", "trap:Trap"])
def test_the_record_of_a_run_imports_nothing(name: str, tmp_path: Path) -> None:
    run = Path(shutil.copytree(EARLIER, "run"))
    path = run / "record.json"
    held = json.loads(path.read_text())
    held.pop("imprint", None)
    for changes in (
        {"model": name},
        {"imports": [name], "modules": [name]},
        {"config": {**held["config"], "encoder": name}},
        {"data": {**held["data"], "dataset": name}},
    ):
        path.write_text(json.dumps({**held, **changes}))
        call("evaluate", str(run), "-q")
