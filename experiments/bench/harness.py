"""Measure sides in processes of their own, repetition by repetition in turn, and make one result of
it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
#: every library that keeps a thread pool reads one of these
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
#: old-kernel switches that some machines set for old libraries; they would slow one side and not
#: the other
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONPATH")


class MeasurementError(RuntimeError):
    """A measured process failed, or did not answer in time."""


@dataclass(frozen=True)
class Side:
    """One of the two things that a benchmark compares.

    Attributes:
        name: as shown.
        workload: file and function, relative to this folder, as ``"ours/training.py:train"``.
        options: given to the workload; ``steps`` and ``warmup`` are read by the child.
        environment: None for the interpreter that runs the benchmark, else a name in
            ``environments.PEERS``.
        root: the checkout whose library and workloads are run.
    """

    name: str
    workload: str
    options: Mapping[str, Any]
    environment: str | None = None
    root: Path = ROOT


@dataclass(frozen=True)
class Sample:
    """One repetition as the child measured it."""

    counts: Mapping[str, float]
    cpu_s: float
    wall_s: float
    peak_mb: float

    def rate(self, unit: str, clock: str) -> float:
        """Counts of ``unit`` a second, by ``clock`` ``"cpu"`` (process CPU time) or ``"wall"``."""
        return self.counts[unit] / (self.cpu_s if clock == "cpu" else self.wall_s)


@dataclass
class Measured:
    """All repetitions of one side, or why there are none.

    Attributes:
        prepared_mb: the resident size of its process before the first step, None where that is not
            known.
    """

    name: str
    samples: list[Sample] = field(default_factory=list)
    versions: Mapping[str, str] = field(default_factory=dict)
    prepared_mb: float | None = None
    reason: str | None = None

    @property
    def ok(self) -> bool:
        return self.reason is None and bool(self.samples)

    def rates(self, unit: str, clock: str) -> list[float]:
        return [sample.rate(unit, clock) for sample in self.samples]

    def units(self) -> list[str]:
        """What the repetitions counted."""
        return list(self.samples[0].counts) if self.samples else []


class Child:
    """A running measured process.

    Args:
        python: the interpreter.
        side: what to run in it.
        environment: variables, from :func:`child_environment`.
        timeout_s: how long to wait for each answer.

    Raises:
        MeasurementError: it failed; the message ends with the last line of its standard error.
    """

    def __init__(
        self, python: Path, side: Side, environment: Mapping[str, str], timeout_s: float = 600.0
    ) -> None:
        self._timeout_s, self._late = timeout_s, False
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115, close() closes it
        workload = side.root / HERE.relative_to(ROOT) / side.workload
        command = [
            str(python),
            "-u",
            str(HERE / "child.py"),
            str(workload),
            json.dumps(dict(side.options)),
        ]
        if side.environment is None:
            environment = {**environment, "PYTHONPATH": str(side.root)}
        pipe = subprocess.PIPE
        # some libraries leave logs where they run
        self._folder = tempfile.TemporaryDirectory(prefix="recgraph-bench-")
        self._process = subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=self._errors,
            text=True,
            env=environment,
            cwd=self._folder.name,
        )
        try:
            ready = self._answer()
            self.versions: dict[str, str] = ready["versions"]
            self.prepared_mb: float | None = ready.get("prepared_mb")
        except BaseException:
            self.close()
            raise

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        alarm = threading.Timer(self._timeout_s, self._stop_late)
        alarm.start()
        try:
            line = self._process.stdout.readline()
        finally:
            alarm.cancel()
        if not line:
            raise MeasurementError(self._failure())
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _stop_late(self) -> None:
        self._late = True
        self._process.kill()

    def _failure(self) -> str:
        """Why the process is gone."""
        code = self._process.wait()
        if self._late:
            return f"no answer within {self._timeout_s:g} s"
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        return f"exit {code}: {lines[-1] if lines else 'no message'}"

    def measure(self) -> Sample:
        """One repetition."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise MeasurementError(self._failure()) from None
        return Sample(**self._answer())

    def close(self) -> None:
        """End the process and remove what it left in its folder."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()
        self._folder.cleanup()


def child_environment(
    inherited: Mapping[str, str], threads: int, hide_accelerator: bool = True
) -> dict[str, str]:
    """The variables of a measured process: these threads, and no switches that favour a side."""
    kept = {name: value for name, value in inherited.items() if name not in UNSET}
    kept.update({name: str(threads) for name in THREAD_VARIABLES})
    if hide_accelerator:
        kept["CUDA_VISIBLE_DEVICES"] = ""
    return kept


def measure_in_turn(
    sides: Sequence[tuple[Side, Path | str]],
    threads: int,
    repeats: int,
    hide_accelerator: bool = True,
    timeout_s: float = 600.0,
) -> list[Measured]:
    """Start every side, then measure them in turn, ``repeats`` rounds; only one computes at a time.

    Args:
        sides: each with its interpreter, or with the reason (a string) why it cannot run.
        threads: of each process.
        repeats: rounds.
        hide_accelerator: let no process see a GPU.
        timeout_s: for the start of a process, and for each repetition.

    Returns:
        One result a side, in order; a side that failed carries the reason and no samples.
    """
    results = [Measured(side.name) for side, _ in sides]
    environment = child_environment(os.environ, threads, hide_accelerator)
    children: list[tuple[Measured, Child]] = []
    with contextlib.ExitStack() as stack:
        for result, (side, python) in zip(results, sides, strict=True):
            if isinstance(python, str):
                result.reason = python
                continue
            with _reason_kept(result):
                child = stack.enter_context(
                    contextlib.closing(Child(python, side, environment, timeout_s))
                )
                result.versions, result.prepared_mb = child.versions, child.prepared_mb
                children.append((result, child))
        for _ in range(repeats):
            for result, child in children:
                if result.reason is None:
                    with _reason_kept(result):
                        result.samples.append(child.measure())
    return results


@contextlib.contextmanager
def _reason_kept(result: Measured) -> Iterator[None]:
    """A failure ends a side: its result says why, and the repetitions before it do not count."""
    try:
        yield
    except MeasurementError as error:
        result.reason = str(error)
        result.samples.clear()


def machine() -> str:
    """The processor, its cores and the operating system, for the reader of a number."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = [
            line.split(":", 1)[1].strip()
            for line in cpuinfo.read_text().splitlines()
            if "model name" in line
        ]
        model = named[0] if named else model
    return f"{model}, {os.cpu_count()} cores, {platform.system()}"
