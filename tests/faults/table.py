"""The table of reliability: each command against each fault; a cell is a case that is run, or why there is none."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import hypothesis.strategies as st
from checking import (
    Bench,
    check_clock,
    check_damage,
    check_error,
    check_file_limit,
    check_read_only_mount,
    check_reload,
    check_reload_after_kill,
    check_second,
    check_signal,
    check_small_disk,
)
from commands import COMMANDS, Command
from injecting import BROKEN, FULL, INTERRUPT, KILL, NO_MEMORY, READ_ONLY, TERMINATE, Event, Harm

#: shares of what a command does
_MOMENTS = st.floats(0, 1, exclude_max=True)


class Draw(Protocol):
    """Draws of Hypothesis."""

    def __call__(self, strategy: st.SearchStrategy[Any]) -> Any: ...


Check = Callable[[Bench, Command, Draw], None]


@dataclass(frozen=True, repr=False)
class Fault:
    """A column of the table.

    Attributes:
        name: of the column.
        what: is done, in a sentence.
        check: makes one case of a command.
        without: name of a command -> why there is no such case.
        examples: how many cases the campaign makes of a command whose cost is 1.
    """

    name: str
    what: str
    check: Check
    without: Mapping[str, str] = field(default_factory=dict)
    examples: int = 2

    def __repr__(self) -> str:
        return self.name


def _signal(harm: Harm) -> Check:
    def check(bench: Bench, command: Command, draw: Draw) -> None:
        check_signal(bench, command, harm, draw(st.lists(_MOMENTS, min_size=1, max_size=2)))
        if command.served is not None:
            check_reload_after_kill(bench, command, harm, draw(_MOMENTS))

    return check


def _error(harm: Harm) -> Check:
    def check(bench: Bench, command: Command, draw: Draw) -> None:
        check_error(bench, command, harm, draw(_MOMENTS))

    return check


def truncate(path: Path, share: float) -> None:
    """Cut a file off."""
    os.truncate(path, int(share * path.stat().st_size))


def flip(path: Path, share: float) -> None:
    """Flip a bit of a file."""
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 0x10
    path.write_bytes(content)


def _damage(damage: Callable[[Path, float], None]) -> Check:
    def check(bench: Bench, command: Command, draw: Draw) -> None:
        choice, share = draw(_MOMENTS), draw(_MOMENTS)
        made = check_damage if command.served is None else check_reload
        made(bench, command, lambda path: damage(path, share), choice)

    return check


_STUDIES = [command.name for command in COMMANDS if command.name.startswith("tune")]
_PRUNED = "a trial that does not fit into memory is pruned, by design, and the study goes on without it"
_LOG = "it reads the user's log alone; tests/data/test_bad_logs.py damages that"
_OWN = {
    "train": _LOG,
    "data get": "it makes its data and reads no file",
    "leaderboard run": "it reads no file but those of runs (see resume) and of records (see leaderboard render)",
    **dict.fromkeys(_STUDIES, "Optuna's journal and the databases are theirs and have no checksums; runs: see resume"),
}
_GONE = {"leaderboard render": "a record that is gone is one that was not made: the page says so, and a run makes it"}
_NO_TENSORS = "it makes no tensors but those of its generator, in one place"
_RENDERS = "it reads records and writes a page; it computes nothing with tensors"
FAULTS = (
    Fault(
        "SIGKILL",
        "killed at a write, rename, fsync or removal of a file; a write is half done",
        _signal(KILL),
        examples=8,
    ),
    Fault(
        "computing",
        "killed (SIGKILL) as it asks for memory for a tensor",
        _signal(replace(KILL, kinds=Event.ALLOCATE)),
        {"leaderboard render": _RENDERS, "data get": _NO_TENSORS},
        examples=3,
    ),
    Fault("SIGTERM", "ended at such a moment", _signal(TERMINATE), examples=3),
    Fault("SIGINT", "interrupted at such a moment", _signal(INTERRUPT), examples=3),
    Fault("disk full", "no file is made or written to any more from such a moment on (ENOSPC)", _error(FULL)),
    Fault("read-only", "nothing is made, renamed or removed any more from such a moment on (EROFS)", _error(READ_ONLY)),
    Fault(
        "small disk",
        "it works on a disk (a tmpfs of its own) that has room for a part of what it writes (ENOSPC of the kernel)",
        lambda bench, command, draw: check_small_disk(bench, command, draw(_MOMENTS)),
    ),
    Fault(
        "read-only mount",
        "it works where nothing can be written (EROFS of the kernel)",
        lambda bench, command, draw: check_read_only_mount(bench, command),
        examples=1,
    ),
    Fault(
        "file limit",
        "no file may grow beyond a part of its largest (RLIMIT_FSIZE): the write fails (EFBIG), or kills it (SIGXFSZ)",
        lambda bench, command, draw: check_file_limit(bench, command, draw(_MOMENTS), draw(st.booleans())),
        examples=3,
    ),
    Fault("disk error", "a write or an fsync fails at such a moment (EIO)", _error(BROKEN)),
    Fault(
        "no memory",
        "no tensor gets memory any more from such a moment on; a library that ends the process then has killed it",
        _error(NO_MEMORY),
        {"leaderboard render": _RENDERS, "data get": _NO_TENSORS, **dict.fromkeys(_STUDIES, _PRUNED)},
    ),
    Fault("truncated", "a file that it reads is cut off somewhere", _damage(truncate), _OWN, examples=6),
    Fault("bit flipped", "a bit of a file that it reads is another", _damage(flip), _OWN, examples=6),
    Fault(
        "removed", "a file that it reads is gone", _damage(lambda path, _: path.unlink()), {**_OWN, **_GONE}, examples=6
    ),
    Fault(
        "clock back",
        "the clock is set back by a day at such a moment",
        lambda bench, command, draw: check_clock(bench, command, draw(_MOMENTS)),
    ),
    Fault(
        "second process",
        "a second process begins the same at such a moment, while the first stands still",
        lambda bench, command, draw: check_second(bench, command, draw(_MOMENTS)),
    ),
)


def cell(command: Command, fault: Fault) -> str | None:
    """Why a command has no case of a fault; None where it has."""
    return fault.without.get(command.name)


def markdown() -> str:
    """The table as the documentation has it: a column of numbers where a cell has no case, with the reasons below."""
    reasons = list(dict.fromkeys(why for command in COMMANDS for fault in FAULTS if (why := cell(command, fault))))
    lines = ["| | " + " | ".join(fault.name for fault in FAULTS) + " |", "| --- |" + " --- |" * len(FAULTS)]
    for command in COMMANDS:
        found = [cell(command, fault) for fault in FAULTS]
        lines.append(
            f"| {command.name} | " + " | ".join(f"({reasons.index(why) + 1})" if why else "✓" for why in found) + " |"
        )
    notes = [f"{number}. {why}." for number, why in enumerate(reasons, 1)]
    faults = [f"- **{fault.name}**: {fault.what}." for fault in FAULTS]
    return "\n".join([*lines, "", "No case, because:", "", *notes, "", "The faults:", "", *faults])


_BEGIN, _END = "<!-- table: python tests/faults/table.py -->", "<!-- end of the table -->"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "reliability.md"


def written(page: str) -> str:
    """The page with the table in its place."""
    before, _, rest = page.partition(_BEGIN)
    return f"{before}{_BEGIN}\n\n{markdown()}\n\n{_END}{rest.partition(_END)[2]}"


CELLS = [(command, fault) for command in COMMANDS for fault in FAULTS if cell(command, fault) is None]


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
