"""The table of reliability: each command against each fault; a cell is a case that is run, or why there is none."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import hypothesis.strategies as st
from checking import Bench, check_clock, check_error, check_second, check_signal
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

    return check


def _error(harm: Harm) -> Check:
    def check(bench: Bench, command: Command, draw: Draw) -> None:
        check_error(bench, command, harm, draw(_MOMENTS))

    return check


_STUDIES = [command.name for command in COMMANDS if command.name.startswith("tune")]
_PRUNED = "a trial that does not fit into memory is pruned, by design, and the study goes on without it"
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
    Fault("disk error", "a write or an fsync fails at such a moment (EIO)", _error(BROKEN)),
    Fault(
        "no memory",
        "no tensor gets memory any more from such a moment on",
        _error(NO_MEMORY),
        {"leaderboard render": _RENDERS, "data get": _NO_TENSORS, **dict.fromkeys(_STUDIES, _PRUNED)},
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


CELLS = [(command, fault) for command in COMMANDS for fault in FAULTS if cell(command, fault) is None]
