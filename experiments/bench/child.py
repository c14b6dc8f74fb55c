"""The measured process: loads one workload, warms it up, and measures a repetition whenever it is
told to.

Run by path with the interpreter of any environment, so it uses the standard library alone:

    python child.py WORKLOAD.py:NAME '{"steps": 10, "warmup": 2, ...}'

A workload is a function of a file, ``NAME(options) -> run`` (``prepare`` where no name is given);
``run(steps)`` does that many steps and returns what it got through as ``{unit: count}``. Dialogue,
a line each way: the child says ``{"ready": ...}``, then answers each ``go`` with ``{"counts": ...,
"cpu_s": ..., "wall_s": ..., "peak_mb": ...}`` until its input ends. ``ready`` comes with the
versions and with the resident size of what is prepared. What the workload itself prints goes to
standard error.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

Run = Callable[[int], dict[str, float]]
#: packages whose versions a line reports, where the environment has them
REPORTED = ("torch", "numpy", "torch-geometric", "recbole", "replay-rec", "rectools", "faiss-cpu")


def private_output() -> TextIO:
    """Standard output as it was; from now on whatever the libraries print goes to standard
    error.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return answers


def load(workload: str) -> Callable[[dict[str, Any]], Run]:
    """The function that prepares a workload; files beside its file can be imported by it."""
    file, _, name = workload.partition(".py:")
    path = Path(file if name == "" else f"{file}.py").resolve()
    sys.path[0] = str(path.parent)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ValueError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    prepare: Callable[[dict[str, Any]], Run] = getattr(module, name or "prepare")
    return prepare


def versions() -> dict[str, str]:
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in REPORTED:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def peak_mb() -> float:
    """The largest resident size of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def resident_mb() -> float | None:
    """The resident size of this process now, in MiB; None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * resource.getpagesize() / 2**20


def hold_threads() -> None:
    """Libraries may change torch's threads while they load: set what was asked for again."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))


def finish() -> None:
    """Wait for an accelerator that still computes."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def repetition(run: Run, steps: int) -> dict[str, Any]:
    """Run ``steps`` steps and measure process CPU time (all threads) and wall time around them
    alone.
    """
    wall, cpu = time.perf_counter(), time.process_time()
    counts = run(steps)
    finish()
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
    return {"counts": counts, "cpu_s": cpu_s, "wall_s": wall_s, "peak_mb": peak_mb()}


def main(workload: str, options_text: str) -> None:
    answers = private_output()

    def say(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=answers, flush=True)

    options = json.loads(options_text)
    run = load(workload)(options)
    hold_threads()
    prepared_mb = resident_mb()
    run(int(options.get("warmup", 1)))
    say({"ready": True, "versions": versions(), "prepared_mb": prepared_mb})
    for line in sys.stdin:
        if line.strip() != "go":
            break
        say(repetition(run, int(options["steps"])))


if __name__ == "__main__":
    main(*sys.argv[1:])
