"""``torchrun -m recgraph ...`` on two processes: one run as of one process, one voice, and every fault ends both."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import forked
import pytest
import torch
from command_line import call, refused, works
from launched import ROOT, free_port, torchrun
from safetensors.torch import load_file

from recgraph.cli.ranks import of_rank
from recgraph.train.checkpoint import latest
from recgraph.workers.lock import hold
from recgraph.workers.together import RankLost, _marked

OWN = str(Path(__file__).with_name("faulty.py"))
#: ten batches an epoch, of two processes each; a checkpoint after every second
SETTINGS = ("batch_size=60", "checkpoint_every=2", "hidden_dim=16", "n_layers=1")
#: seconds; less than a process waits for one that is gone, and more than any command takes on a busy machine
GRACE = 300.0
WITHOUT_DROPOUT = ("dropout=0", "attention_dropout=0")


def environment_of_ranks() -> dict[str, str]:
    """What every process is given, with the tests and the library in reach."""
    paths = os.pathsep.join([str(ROOT), *sys.path])
    return {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


class Launched:
    """Two processes of a command under torchrun."""

    def __init__(self, *arguments: str, **variables: str) -> None:
        self.process = torchrun(2, *arguments, env={**environment_of_ranks(), **variables})

    def wait(self) -> str:
        """What all have printed until the end."""
        try:
            self.process.wait(GRACE)
        finally:
            self.process.send_signal(signal.SIGTERM)  # the launcher ends its processes
            self.process.wait()
        with self.process:
            return self.process.said


def own(text: str) -> list[str]:
    """The lines of the output that are the command's, not the launcher's."""
    return [line for line in text.splitlines() if line.startswith(("recgraph: ", "rank ", "saved in", "epoch "))]


def weights(run: Path) -> dict[str, torch.Tensor]:
    newest = latest(run / "checkpoints")
    assert newest is not None
    return load_file(newest / "model.safetensors")


def record(run: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((run / "record.json").read_text())
    return values


def without_times(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if "second" not in name} for row in rows]


def command(out: Path, *settings: str, epochs: int = 2) -> list[str]:
    """A training."""
    given = [f"--set={one}" for one in (f"max_epochs={epochs}", *SETTINGS, *settings)]
    return ["--import", OWN, "train", "faulty", "--dataset", "synthetic", "--out", str(out), *given]


def train(folder: Path, out: str, *more: str, **variables: str) -> Launched:
    return Launched(*command(folder / out), *more, **variables)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("launched")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECGRAPH_HOME", str(folder / "home"))
        works("data get synthetic")
    return folder


@pytest.fixture(autouse=True)
def at_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(folder / "home"))


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """A run of two processes that nothing disturbs, with dropout; by torchrun itself."""
    task = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", f"{free_port()}"]
    task += ["-m", "recgraph", *command(folder / "whole")]
    env = {**environment_of_ranks(), "RECGRAPH_HOME": str(folder / "home")}
    done = subprocess.run(
        task, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8", timeout=GRACE
    )
    printed = done.stdout
    assert (folder / "whole" / "record.json").is_file(), printed
    # one process speaks
    assert printed.count("saved in") == printed.count("epoch 2/2") == 1
    return folder / "whole"


def is_whole_run(found: Path, whole: Path) -> None:
    """A run that was stopped and went on is the one that was not, bit for bit; its folder is free."""
    for name, value in weights(whole).items():
        assert torch.equal(weights(found)[name], value), name
    assert without_times(record(found)["history"]) == without_times(record(whole)["history"])
    with hold(found):
        pass


def test_two_processes_make_the_run_of_one(folder: Path, whole: Path) -> None:
    """Without dropout the numbers of validation are those of one process, and weights equal up to rounding."""
    two = Launched(*command(folder / "two", *WITHOUT_DROPOUT))
    works(*command(folder / "one", *WITHOUT_DROPOUT))
    printed = two.wait()
    assert two.process.returncode == 0, printed
    here, there = record(folder / "one"), record(folder / "two")
    assert there.pop("n_ranks") == 2
    assert {*here} == {*there}
    for name in ("model", "config", "training", "seed", "data", "best", "best_epoch", "n_parameters"):
        assert here[name] == there[name]
    for ours, others in zip(without_times(here["history"]), without_times(there["history"]), strict=True):
        for name in ("loss", "rec"):
            assert ours.pop(name) == pytest.approx(others.pop(name), rel=1e-6)
        assert ours == others
    for name, value in weights(folder / "one").items():
        torch.testing.assert_close(weights(folder / "two")[name], value, rtol=1e-4, atol=1e-6)
    # a run of two processes goes on in one
    for out in ("one", "two"):
        works(*command(folder / out, *WITHOUT_DROPOUT, epochs=3), "--resume")
    alone, gone_on = (record(folder / out) for out in ("one", "two"))
    assert ("n_ranks" in alone, gone_on["n_ranks"]) == (False, 2)
    last, of_two = (one["history"][2] for one in (alone, gone_on))
    assert of_two["loss"] == pytest.approx(last["loss"], rel=1e-5)


def test_a_killed_process_ends_the_other_which_names_it_and_the_run_goes_on(folder: Path, whole: Path) -> None:
    started = train(folder, "killed", FAULT="kill:1:15")
    printed = started.wait()
    assert started.process.returncode == 1
    (line,) = [line for line in own(printed) if line.startswith("recgraph: ")]
    assert line.startswith("recgraph: rank 1 is gone: it was killed")
    assert f"last good checkpoint: {folder / 'killed' / 'checkpoints' / 'step-0000000'}" in line
    assert "--resume" in line
    with hold(folder / "killed"):
        pass
    assert train(folder, "killed", "--resume").wait().count("saved in") == 1
    is_whole_run(folder / "killed", whole)


def test_nan_on_one_process_ends_both_with_its_rank(folder: Path) -> None:
    started = train(folder, "nan", FAULT="nan:1:7")
    printed = started.wait()
    assert started.process.returncode == 1
    (line,) = [line for line in own(printed) if line.startswith("recgraph: ")]
    assert "term 'rec' became nan at step" in line
    assert "on rank 1 of 2" in line
    assert "Traceback" not in printed.split("recgraph: ")[0]


def test_an_error_on_one_process_is_told_with_its_rank_and_traceback(folder: Path) -> None:
    started = train(folder, "raise", FAULT="raise:1:7")
    printed = started.wait()
    assert started.process.returncode == 1
    told = sorted(line for line in own(printed) if line.startswith("recgraph: "))
    first = f"recgraph: rank 1 ended with IndexError: item 7 is not in the table; last good checkpoint: {folder}"
    assert told[0].startswith(first)
    assert told[1].startswith("recgraph: rank 1: unexpected IndexError: item 7 is not in the table")
    assert len(told) == 2
    assert printed.count("in forward\n    raise IndexError") == 1
    assert "gloo" not in printed


@pytest.mark.parametrize(
    ("error", "has_traceback"),
    [(ValueError("a bad row"), True), (RankLost("rank 1 is gone"), False), (KeyboardInterrupt("interrupted"), False)],
)
def test_an_error_that_one_process_alone_has_is_no_refusal(
    error: BaseException,
    has_traceback: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(type(error)) as caught:
        raise error
    assert of_rank("what it says", caught.value) == "what it says", "an error of all"
    assert of_rank("what it says", _marked(caught.value, 0, lone=True)) == "rank 0: what it says"
    assert ("    raise error\n" in capsys.readouterr().err) == has_traceback


def test_ctrl_c_keeps_the_step_and_the_run_goes_on(folder: Path, whole: Path) -> None:
    said = folder / "said"
    started = train(folder, "stopped", FAULT="say:1:13", SAID=str(said))
    while not said.exists():
        assert started.process.poll() is None
        time.sleep(0.05)
    started.process.send_signal(signal.SIGINT)
    printed = started.wait()
    assert started.process.returncode != 0
    (line,) = [line for line in own(printed) if line.startswith("recgraph: ")]
    assert line.startswith("recgraph: interrupted in epoch 2 after ")
    assert "go on with resume=True (--resume)" in line
    train(folder, "stopped", "--resume").wait()
    is_whole_run(folder / "stopped", whole)


def test_a_refusal_is_told_once_and_ends_both(folder: Path, whole: Path) -> None:
    printed = train(folder, "whole").wait()
    assert own(printed) == [f"recgraph: {whole} holds a run already; use resume=True (--resume) or another folder"]
    assert "exitcode  : 2" in printed


def test_evaluation_under_variables_of_slurm_prints_what_one_process_prints(
    folder: Path, whole: Path, tmp_path: Path
) -> None:
    """As the second recipe of the docs hands them on."""
    recipe = re.search(r"bash -c '([^']+)' _", (ROOT / "docs" / "many-processes.md").read_text())
    assert recipe is not None
    line = ["--import", OWN, "evaluate", str(whole), "--format", "json"]
    forked.write_program(tmp_path)
    port, ranks = str(free_port()), []
    for rank in range(2):
        of_slurm = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NTASKS": "2"}
        variables = {**environment_of_ranks(), **of_slurm, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        task = ["bash", "-c", recipe[1], "_", str(tmp_path / "recgraph"), *line]
        ranks.append(
            subprocess.Popen(task, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
        )
    (printed, notes), silent = (process.communicate(timeout=GRACE) for process in ranks)
    assert silent == ("", "")
    assert "seen kept: 600 users" in notes
    assert json.loads(printed) == json.loads(works(*line).stdout)


@pytest.mark.parametrize("line", ["tune sasrec -d synthetic", "leaderboard run x.toml", "recommend x --all"])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_command_for_one_process_refuses_several(line: str, rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recgraph.cli.ranks._TO_SPEAK", 0.0)
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("WORLD_SIZE", "2")
    message = refused(line)
    if rank:
        assert not message
    else:
        assert f"`recgraph {line.split()[0]}` runs in one process, and a launcher has started 2" in message


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "x"}, "recgraph: RANK = 'x' must be a whole number"),
        ({"RANK": "1", "MASTER_PORT": "abc"}, "recgraph: MASTER_PORT = 'abc' must be a whole number"),
        ({"RANK": "1"}, "recgraph: rank 0 did not come to 127.0.0.1:"),
        ({"RANK": "0"}, "recgraph: 1 of 2 ranks came to 127.0.0.1:"),
    ],
)
def test_a_process_that_finds_no_other_says_why_itself(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recgraph.cli.ranks._TO_SPEAK", 0.0)
    given = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": f"{free_port()}"}
    for name, value in {**given, "RECGRAPH_RANKS_TIMEOUT": "0.2", **variables}.items():
        monkeypatch.setenv(name, value)
    done = call("evaluate nothing")
    assert done.stderr.startswith(message)
    assert len(done.stderr.splitlines()) == 1
    assert done.exit_code == (2 if "must be" in message else 1)


def test_variables_of_slurm_alone_start_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are there in a shell of an allocation too, where one process runs."""
    for name, value in {"SLURM_PROCID": "0", "SLURM_NTASKS": "4", "SLURM_LOCALID": "0"}.items():
        monkeypatch.setenv(name, value)
    works(f"train popularity -d synthetic --out {folder / 'slurm'}")
    assert "n_ranks" not in record(folder / "slurm")
