"""The commands of the table: what each is given, how it is called and called again, and what comes of it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from driving import Call, command
from outcomes import LOCKS, tree

_SMALL = "--device cpu --seed 3 --set hidden_dim=8 --set inner_dim=8 --set batch_size=64 --set max_epochs=2"
_TRAIN = f"train sasrec --data log.csv --out run {_SMALL} --set checkpoint_every=2"
_TUNE = f"tune sasrec --data log.csv --out study {_SMALL} --study s --space space.toml --test-seeds 1"
_TUNE += " --pruner none --sampler grid"
_SQLITE = f"{_TUNE} --storage sqlite:///study.db"
_UPDATE = "update run --data new.csv --out newer --device cpu --force --seed 4"
_BOARD = "leaderboard run boards/tiny --device cpu"
_RENDER = "leaderboard render boards/tiny --out page.html"
#: stands in a command for the URL of the PostgreSQL server of the tests
POSTGRES = "POSTGRES"


@dataclass(frozen=True, repr=False)
class Command:
    """A row of the table.

    Attributes:
        name: of the row.
        call: what is run.
        result: the folder of a case -> what came of it.
        again: what goes on after it was stopped; None: the same.
        world: the name of the files that it is given, see :data:`WORLDS`.
        reader: what reads the result, and must refuse one that is not whole; None: nothing does.
        makes: the files and folders that it writes, relative.
        damaged: patterns of the files that it reads and that are damaged.
        prints: whether what it prints is a result, too.
        served: a bundle that a service serves meanwhile, and reloads afterwards.
        once: whether it refuses to do again what is done.
        cost: how dear a case is; the campaign makes 1/cost as many.
    """

    name: str
    call: Call
    result: Callable[[Path], Any]
    again: Call | None = None
    world: str = "log"
    reader: Call | None = None
    makes: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    prints: bool = False
    served: str | None = None
    once: bool = False
    cost: int = 1

    def __repr__(self) -> str:
        return self.name

    @property
    def next(self) -> Call:
        """What goes on."""
        return self.again or self.call


def of(name: str, only: str = "", leave_out: str = LOCKS) -> Callable[[Path], Any]:
    """The result is a file or folder of that name."""
    return lambda case: tree(case / name, leave_out, only)


def run_of(name: str) -> Callable[[Path], Any]:
    """The result is a run: when its checkpoints were made depends on when it was stopped, all else does not."""
    return of(name, leave_out=f"{LOCKS}|^checkpoints/")


def write_world(case: Path) -> None:
    """A log of 40 users and 25 items, a newer one of some of them and of new ones, a search space and a board."""
    draw = random.Random(0)
    rows = [
        (f"u{user}", f"i{(user * 3 + place * draw.randint(1, 3)) % 25}", 100 * place + user)
        for user in range(40)
        for place in range(draw.randint(5, 9))
    ]
    draw.shuffle(rows)
    newer = [
        (f"u{user}", f"i{(user + place) % 28}", 2000 + 100 * place + user)
        for user in range(30, 50)
        for place in range(4)
    ]
    for name, given in (("log.csv", rows), ("new.csv", newer)):
        lines = [",".join(map(str, row)) for row in [("user", "item", "timestamp"), *given]]
        (case / name).write_text("\n".join(lines) + "\n")
    (case / "space.toml").write_text('"*" = "fixed"\nlearning_rate = [0.3, 0.001]\n')
    board = case / "boards" / "tiny" / "synthetic.toml"
    board.parent.mkdir(parents=True)
    board.write_text(
        'title = "Tiny"\nseeds = [3]\nmetrics = ["ndcg@10"]\n[protocol]\ncutoffs = [10]\n'
        "[training]\nmax_epochs = 2\nbatch_size = 1024\n"
        '[[models]]\nmodel = "bprmf"\nsettings = { hidden_dim = 8 }\n'
    )


#: name -> the world that it begins with, and the calls that make the rest; the last of "stopped" is killed half-way
WORLDS: dict[str, tuple[str | None, tuple[Call, ...]]] = {
    "log": (None, ()),
    "stopped": ("log", (command(_TRAIN),)),
    "run": ("log", (command(_TRAIN),)),
    "served": ("run", (Call("calls", "save_run", ("run", "live")), command(_UPDATE))),
    "study": ("log", (command(f"{_TUNE} --trials 1"),)),
    "database": ("log", (command(f"{_SQLITE} --trials 1"),)),
    "home": ("log", (command("data get synthetic"),)),
    "board": ("home", (command(_BOARD),)),
}


def study(case: Path) -> dict[str, Any]:
    """The trials of a study, in whatever order and number they were tried, and its last training."""
    found = [json.loads(path.read_text()) for path in (case / "study").glob("trials/*/trial.json")]
    final = tree(case / "study" / "final", f"{LOCKS}|/checkpoints/", r"(record\.json|\.safetensors)$")
    last = {name.partition("/")[2]: made for name, made in final.items()}  # without the number of the best trial
    made = sorted(json.dumps([trial["state"], trial["params"], trial["values"]]) for trial in found)
    return {"trials": made, "last": last, "page": (case / "study" / "study.html").exists()}


def _tune(name: str, line: str, **more: Any) -> Command:
    call = command(f"{line} --trials 2")
    return Command(name, call, study, makes=("study", "study.db"), cost=3, **more)


COMMANDS = (
    Command(
        "train",
        command(_TRAIN),
        run_of("run"),
        again=command(f"{_TRAIN} --resume"),
        reader=command("evaluate run --format json"),
        makes=("run",),
    ),
    Command(
        "resume",
        command(f"{_TRAIN} --resume"),
        run_of("run"),
        world="stopped",
        reader=command("evaluate run --format json"),
        makes=("run",),
        damaged=("run/**/*",),
    ),
    Command(
        "update",
        command(_UPDATE),
        run_of("newer"),
        world="run",
        reader=command("recommend newer --user u3 --format json"),
        makes=("newer",),
        once=True,
        damaged=("run/**/*",),
    ),
    Command(
        "evaluate",
        command("evaluate run --format json"),
        lambda case: json.loads((case / "run" / "record.json").read_text())["results"],
        world="run",
        damaged=("run/**/*",),
        prints=True,
        makes=("run",),
    ),
    Command(
        "recommend --all",
        command("recommend run --all --out lists.parquet"),
        of("lists.parquet"),
        world="run",
        makes=("lists.parquet",),
        damaged=("run/**/*",),
    ),
    Command(
        "data get",
        command("data get synthetic"),
        of("home"),
        reader=command("train popularity --dataset synthetic --out run --device cpu"),
        makes=("home",),
    ),
    _tune("tune, journal", _TUNE),
    _tune("tune, SQLite", _SQLITE),
    _tune("tune, PostgreSQL", f"{_TUNE} --storage {POSTGRES}"),
    Command(
        "leaderboard run",
        command(_BOARD),
        of("boards/results"),
        world="home",
        reader=command(_RENDER),
        makes=("boards/results",),
        cost=10,
    ),
    Command(
        "leaderboard render",
        command(_RENDER),
        of("page.html"),
        world="board",
        makes=("page.html",),
        damaged=("boards/results/**/*",),
    ),
    Command(
        "run.save",
        Call("calls", "save_run", ("run", "saved")),
        of("saved"),
        world="run",
        reader=command("recommend saved --user u3 --format json"),
        makes=("saved",),
        damaged=("run/**/*",),
    ),
    Command(
        "export",
        command("export run --out exported"),
        of("exported"),
        world="run",
        makes=("exported",),
        damaged=("run/**/*",),
        cost=4,
    ),
    Command(
        "serve, reload",
        Call("calls", "save_run", ("newer", "live")),
        of("live"),
        world="served",
        reader=command("recommend live --user u3 --format json"),
        makes=("live",),
        served="live",
    ),
)
