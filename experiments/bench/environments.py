"""An environment of its own for every peer: ``.bench-venv/<name>``, made with pip when it is first
needed.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from experiments.bench.harness import ROOT

FOLDER = ROOT / ".bench-venv"
_STAMP = "requirements.installed"


@dataclass(frozen=True)
class Peer:
    """What pip installs for a peer.

    Attributes:
        requirements: of pip.
        newest_python: (major, minor) of the newest interpreter for which those versions have
            wheels.
    """

    requirements: tuple[str, ...]
    newest_python: tuple[int, int] = (3, 13)


PEERS = {
    "recbole": Peer(
        ("recbole==1.2.1", "torch>=2.13", "setuptools<81", "numpy<2", "pandas<3", "scipy<1.13"),
        newest_python=(3, 12),
    ),
    "replay": Peer(("replay-rec[torch]==0.22.0", "torch>=2.13")),
    "rectools": Peer(("rectools[torch]==0.19.0", "torch>=2.13")),
    # with implicit, on which it depends
    "rectools-linear": Peer(("rectools==0.19.0",)),
}


class EnvironmentMissing(RuntimeError):
    """A peer cannot be run here; the message is the reason that a result shows."""


def python_of(name: str, install: bool = True) -> Path:
    """The interpreter of a peer's environment, which is made if it is not there or holds something
    else.

    Args:
        name: a key of ``PEERS``.
        install: whether it may be made.

    Raises:
        EnvironmentMissing: it is not there and may not or cannot be made.
    """
    peer, folder = PEERS[name], FOLDER / name
    stamp, wanted = folder / _STAMP, "\n".join(peer.requirements)
    if stamp.exists() and stamp.read_text() == wanted:
        return folder / "bin" / "python"
    if not install:
        raise EnvironmentMissing(f"{name} is not installed (run without --no-install)")
    shutil.rmtree(folder, ignore_errors=True)
    print(f"installing {name} into {folder.relative_to(ROOT)} ...", file=sys.stderr, flush=True)
    _run([_interpreter(peer), "-m", "venv", str(folder)], name)
    pip = [
        str(folder / "bin" / "python"),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    _run([*pip, *peer.requirements], name)
    stamp.write_text(wanted)
    return folder / "bin" / "python"


def _interpreter(peer: Peer) -> str:
    if sys.version_info[:2] <= peer.newest_python:
        return sys.executable
    for minor in range(peer.newest_python[1], 10, -1):
        found = shutil.which(f"python3.{minor}")
        if found:
            return found
    raise EnvironmentMissing(
        f"needs Python {'.'.join(map(str, peer.newest_python))} or older, which is not here"
    )


def _run(command: list[str], name: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise EnvironmentMissing(f"{name} does not install: {reason(done.stderr or done.stdout)}")


def reason(output: str) -> str:
    """The last line of an installer's output that names an error, without addresses."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["no message"]
    errors = [line for line in lines if line.lower().startswith("error")] or lines
    return re.sub(r"\s*(\((from\s+)?)?https?://\S+", "", errors[-1])
