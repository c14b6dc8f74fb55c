"""Fuzzing of readers in processes of their own: each case is a changed copy of valid files, made from its number.

The processes are forks of one that has imported the library.

A case passes where the reader reads the copy or raises one of its documented errors, and the message names a file of
the copy. It fails on any other error, after ``SECONDS``, with more than ``MEMORY`` beyond what the reader takes of the
valid files, and where the process ends.

``python tests/fuzz/campaign.py MODULE SEED START COUNT`` runs cases of a module with ``TARGET`` here and writes a JSON
line before and after each; :func:`campaign` starts it anew behind a case that ended it.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import forked
import mutator

__all__ = ["Report", "Target", "campaign", "minutes", "seed"]

#: of one case: what its process may compute, and how many times as long it may take, on a machine that does other work
SECONDS, SLOWER = 5.0, 12
#: until a process has imported the library and read the valid files
START_SECONDS = 120.0
#: bytes of address space beyond what a process has once it has read the valid files
MEMORY = 2 << 30


@dataclass(frozen=True)
class Target:
    """A reader.

    Attributes:
        write: writes valid files into a folder.
        read: reads them, all of them, as a user would.
        errors: the documented types of its errors.
        change: changes a folder of valid files; by default one file of it.
        names: whether a message must name a file or folder of the copy.
    """

    write: Callable[[Path], None]
    read: Callable[[Path], object]
    errors: tuple[type[BaseException], ...]
    change: Callable[[Path, random.Random], None] = field(default=lambda folder, rng: change_one(folder, rng))
    names: bool = True


def change_one(folder: Path, rng: random.Random) -> None:
    """Change one file of a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    chosen = rng.choice(files)
    mutator.mutate_file(chosen, rng, [path.read_bytes() for path in files if path != chosen])


@dataclass
class Report:
    """How the cases of a target went.

    Attributes:
        counts: outcome -> cases: ``read``, the name of a documented error, or ``failed``.
        failures: number of the case -> why it failed.
    """

    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{sum(self.counts.values())} cases: {dict(self.counts)}; failures: {self.failures}"


def minutes(default: float = 0.0) -> float:
    """The minutes that ``FUZZ_MINUTES`` gives to each target."""
    return float(os.environ.get("FUZZ_MINUTES", default))


def seed() -> int:
    """The seed of the cases: ``FUZZ_SEED``, else 1 in a long run and 0 in a quick one."""
    return int(os.environ.get("FUZZ_SEED", minutes() > 0))


def campaign(module: str, count: int, seed: int = 0, max_minutes: float | None = None) -> Report:
    """Run cases 0 to ``count - 1`` of a target, or as many as the minutes allow.

    Args:
        module: of tests/fuzz, with a :class:`Target` named ``TARGET``, or ``module:NAME``.
    """
    report, done = Report(), 0
    end = None if max_minutes is None else time.monotonic() + 60 * max_minutes
    while done < count and (end is None or time.monotonic() < end):
        for number, outcome, why in _watched(module, seed, done, count, end):
            report.counts[outcome] += 1
            if outcome == "failed":
                report.failures[number] = why
            done = number + 1
    return report


def _watched(module: str, seed: int, start: int, count: int, end: float | None) -> Iterator[tuple[int, str, str]]:
    """The outcomes of a process until it ends, or is ended for a case that takes too long."""
    own = {"PYTHONPATH": f"{forked.ROOT}{os.pathsep}{forked.ROOT / 'tests'}"}
    command = [__file__, [module, f"{seed}", f"{start}", f"{count}"]]
    request = {"module": command, "cwd": os.getcwd(), "env": {**os.environ, **own}, "fds": [1, 2]}
    read, write = os.pipe()
    with open(read, "rb", buffering=0), tempfile.TemporaryFile() as errors:
        process = forked.Forked(request, (write, errors.fileno()))
        os.close(write)
        running, patience = start, [START_SECONDS]
        try:
            for line in _lines(read, patience, process.pid):
                if line is None:
                    yield running, "failed", f"took more than {patience[0]} s"
                    return
                told = json.loads(line)
                running, patience[0] = told["case"], SECONDS
                if "outcome" in told:
                    yield running, told["outcome"], told["why"]
                    running += 1
                    if end is not None and time.monotonic() > end:
                        return
            if process.wait() != 0:
                errors.seek(0)
                yield running, "failed", f"the process ended with {process.returncode}: {errors.read()[-2000:]!r}"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _computed(pid: int) -> float:
    """The CPU seconds of a process; infinite where it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return math.inf
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _lines(descriptor: int, patience: list[float], pid: int) -> Iterator[str | None]:
    """Lines as they come; None where the process computes for ``patience`` seconds, which may change, in vain."""
    held = b""
    began, computed = time.monotonic(), _computed(pid)
    while True:
        ready, _, _ = select.select([descriptor], [], [], patience[0])
        if not ready:
            if _computed(pid) - computed < patience[0] and time.monotonic() - began < SLOWER * patience[0]:
                continue
            yield None
            return
        began, computed = time.monotonic(), _computed(pid)
        if not (block := os.read(descriptor, 1 << 16)):
            return
        *whole, held = (held + block).split(b"\n")
        yield from (line.decode() for line in whole)


def _load(module: str) -> Target:
    name, _, attribute = module.partition(":")
    found: Target = getattr(importlib.import_module(name), attribute or "TARGET")
    return found


def _run(module: str, seed: int, start: int, count: int) -> None:
    """The process that runs the cases."""
    target = _load(module)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        valid, copy = Path(scratch) / "valid", Path(scratch) / "copy"
        valid.mkdir()
        target.write(valid)
        target.read(valid)
        _limit_memory()
        for number in range(start, count):
            _tell({"case": number})
            rng = random.Random(f"{module} {seed} {number}")
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(valid, copy)
            target.change(copy, rng)
            outcome, why = _outcome(target, copy)
            _tell({"case": number, "outcome": outcome, "why": why})


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _outcome(target: Target, folder: Path) -> tuple[str, str]:
    try:
        target.read(folder)
    except target.errors as error:
        if target.names and str(folder) not in str(error):
            return "failed", f"{type(error).__name__} names no file: {error}"[:1000]
        return type(error).__name__, ""
    except BaseException as error:  # panics of Polars are no Exception
        import traceback

        where = "".join(traceback.format_exception(error)[-3:])
        return "failed", f"{type(error).__name__}: {error}"[:500] + f"\n{where[-1500:]}"
    return "read", ""


def _tell(values: dict[str, Any]) -> None:
    sys.__stdout__.write(json.dumps(values) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


if __name__ == "__main__":
    _run(sys.argv[1], *map(int, sys.argv[2:5]))
