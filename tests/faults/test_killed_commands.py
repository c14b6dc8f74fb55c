"""Commands that are killed go on to the same result (`tune`: tests/tuning/test_studies.py), and
damaged files are refused or harmless.

One kill of `train`, `board run` and `update` is part of `make test`; `make test-faults` runs all.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import forked
import pytest

import recgraph as rg
from recgraph.train import checkpoint as checkpoints

#: what `make test` has of each test
_QUICK = [("train", 0.6), ("board", 0.6), ("update", 0.6)]

_SMALL = "--device cpu --seed 3 --set hidden_dim=8 --set encoder.inner_dim=8 --set batch_size=64 --set max_epochs=2"
_TRAIN = f"train sasrec --data log.csv --out run {_SMALL} --set checkpoint_every=2"
_BOARD = "board run boards/tiny --device cpu"
#: entries of JSON files that differ from run to run, or are digests of what does
_VOLATILE = re.compile(
    "at|cost|cpu_seconds|curve_seconds|files|inference|machine|manifest|peak_memory_mb|preparation|provenance|results"
    "|seconds|sha256|targets_per_second|unsealed"
)
#: files of digests, programs with times in them, locks, and what is between a write and its rename
_UNREAD = re.compile(r"SHA256SUMS|manifest|model\.pt2|\.lock|\.work/|(^|/)\.[^/]+|\.tmp")


def stable(value: Any) -> Any:
    """A JSON value without what differs from run to run."""
    if isinstance(value, dict):
        return {name: stable(each) for name, each in value.items() if not _VOLATILE.fullmatch(name)}
    return [stable(each) for each in value] if isinstance(value, list) else value


def contents(path: Path) -> Any:
    """The contents of a file, without what differs from run to run."""
    if path.suffix in (".json", ".jsonl"):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        return [stable(json.loads(line)) for line in lines]
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tree(*places: str) -> Callable[[Path], dict[str, Any]]:
    """The files below some files and folders -> their contents, but checkpoints, whose moments
    depend on the kill.
    """

    def read(case: Path) -> dict[str, Any]:
        found = [
            path
            for place in places
            for path in (case / place, *(case / place).rglob("*"))
            if path.is_file()
        ]
        names = {path.relative_to(case).as_posix(): path for path in found}
        kept = {
            name: path
            for name, path in names.items()
            if not _UNREAD.search(name) and "checkpoints/" not in name
        }
        return {name: contents(path) for name, path in sorted(kept.items())}

    return read


@dataclass(frozen=True)
class Command:
    """What is run, what it is given, what goes on, and what comes of it."""

    line: str
    result: Callable[[Path], Any]
    after: str | None = None
    again: str = ""


COMMANDS = {
    "train": Command(_TRAIN, tree("run"), again=" --resume"),
    "train, refit": Command(
        f"{_TRAIN} --refit", tree("run/bundle", "run/record.json"), again=" --resume"
    ),
    "board": Command(_BOARD, tree("boards/results")),
    "update": Command(
        "update run --data new.csv --out newer --device cpu --force --seed 4",
        tree("newer"),
        "train",
    ),
    "recommend --all": Command(
        "recommend run --all --out lists.parquet", tree("lists.parquet"), "train"
    ),
    "export": Command("export run --out exported", tree("exported"), "train"),
}


def cells(names: Iterable[str], moments: Iterable[float]) -> list[Any]:
    """Every pair, the quick ones without the mark of the campaign."""
    pairs = itertools.product(names, moments)
    return [
        pytest.param(*pair, marks=() if pair in _QUICK else pytest.mark.faults) for pair in pairs
    ]


def make_files(case: Path) -> None:
    """A log of 40 users and 25 items, a newer one of some of them and of new ones, and a board."""
    draw = random.Random(0)
    rows = [
        (f"u{user}", f"i{(user * 3 + place * draw.randint(1, 3)) % 25}", 100 * place + user)
        for user in range(40)
        for place in range(draw.randint(5, 9))
    ]
    newer = [
        (f"u{user}", f"i{(user + place) % 28}", 2000 + 100 * place + user)
        for user in range(30, 50)
        for place in range(4)
    ]
    for name, given in (("log.csv", rows), ("new.csv", newer)):
        lines = [",".join(map(str, row)) for row in [("user", "item", "timestamp"), *given]]
        (case / name).write_text("\n".join(lines) + "\n")
    board = case / "boards" / "tiny" / "synthetic.toml"
    board.parent.mkdir(parents=True)
    board.write_text(
        'title = "Tiny"\nseeds = [3]\nmetrics = ["ndcg@10"]\n[protocol]\ncutoffs = [10]\n'
        "[training]\nmax_epochs = 1\nbatch_size = 1024\n"
        '[[models]]\nmodel = "bprmf"\nsettings = { hidden_dim = 8 }\n[[models]]\nmodel = "popularity"\n'
    )


def start(case: Path, line: str, at: int = -1) -> forked.Printing:
    """Start a command in the folder of a case; it is killed at a change of a file."""
    paths = os.pathsep.join([str(Path(__file__).parent), str(forked.ROOT), *filter(None, sys.path)])
    env = {
        **os.environ,
        "RECGRAPH_HOME": str(case.parent / "home"),
        "PYTHONPATH": paths,
        "OMP_NUM_THREADS": "1",
    }
    return forked.call("killed", "command", at, line.split(), env=env, cwd=case)


def run(case: Path, line: str, at: int = -1) -> tuple[int, str]:
    """-> (its exit code, what it said)."""
    with start(case, line, at) as process:
        return process.wait(), process.said


class Cases:
    """Folders in which commands run; all are made at one place, so that what they write about it is
    equal.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self.case = folder, folder / "case"
        self._wholes: dict[str, tuple[Any, int]] = {}

    def begin(self, after: str | None) -> Path:
        """The files that commands are given, or what a command makes of them."""
        kept = self._folder / f"{after}"
        if not kept.exists():
            if after is None:
                kept.mkdir()
                make_files(kept)
            else:
                assert run(self.begin(None), COMMANDS[after].line)[0] == 0
                shutil.move(self.case, kept)
        shutil.rmtree(self.case, ignore_errors=True)
        shutil.copytree(kept, self.case)
        return self.case

    def whole(self, name: str) -> tuple[Any, int]:
        """What comes of a command that nothing happens to, and how often it changes a file."""
        if name not in self._wholes:
            command = COMMANDS[name]
            code, said = run(self.begin(command.after), command.line, 0)
            assert code == 0, said
            count = re.search(r"^changes: (\d+)$", said, re.MULTILINE)
            assert count is not None
            self._wholes[name] = command.result(self.case), int(count[1])
        return self._wholes[name]


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Cases:
    return Cases(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(("name", "share"), cells(COMMANDS, [0.1, 0.6, 0.9]))
def test_a_command_that_is_killed_goes_on_to_the_same_result(
    cases: Cases, name: str, share: float
) -> None:
    command = COMMANDS[name]
    result, count = cases.whole(name)
    case = cases.begin(command.after)
    code, said = run(case, command.line, 1 + int(share * count))
    # a board whose workers were quick changes fewer files itself
    assert code in (0, -signal.SIGKILL), said
    code, said = run(case, command.line + command.again)
    assert code == 0 or "already" in said, said  # it was killed when all was there
    found = command.result(case)
    assert found == result, {
        name for name in found.keys() | result.keys() if found.get(name) != result.get(name)
    }


def test_a_second_start_into_a_run_is_refused(cases: Cases) -> None:
    case = cases.begin(None)
    with start(case, _TRAIN) as process:
        process.until(lambda: [*case.glob("run/checkpoints/*")])
        process.send_signal(signal.SIGSTOP)
        code, said = run(case, f"{_TRAIN} --resume")
    assert code == 2
    assert "run" in said
    assert run(case, f"{_TRAIN} --resume")[0] == 0
    assert tree("run")(case) == cases.whole("train")[0]


def flipped(folder: Path, draw: random.Random) -> Path:
    """Turn a bit of a file below a folder around -> the file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
    path = draw.choice(files)
    content = bytearray(path.read_bytes())
    content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    path.write_bytes(content)
    return path


def is_refused_or_harmless(read: Callable[[], Any], whole: Any, damaged: Path) -> None:
    """What is read is as it was, or an error names the file; of a damaged manifest, a file that it
    no longer fits.
    """
    try:
        assert read() == whole, damaged
    except (ValueError, OSError) as error:
        message, named = (
            f"{error}",
            damaged.parent.name if damaged.name == "SHA256SUMS" else damaged.name,
        )
        assert named in message, damaged


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(50))
@pytest.mark.parametrize("what", ["bundle", "checkpoint"])
def test_a_flipped_bit_is_refused_or_harmless(
    cases: Cases, tmp_path: Path, what: str, seed: int
) -> None:
    run_folder = cases.begin("train") / "run"
    newest, *_ = checkpoints.candidates(run_folder / "checkpoints")
    folder = shutil.copytree(
        run_folder / "bundle" if what == "bundle" else newest, tmp_path / newest.name
    )

    def read() -> Any:
        if what == "bundle":
            return rg.load(folder).recommend(users=["u3", "u7"], k=5).rows()  # type: ignore[union-attr]
        return {name: value.tolist() for name, value in checkpoints.read(folder).model.items()}

    whole = read()
    is_refused_or_harmless(read, whole, flipped(folder, random.Random(seed)))
