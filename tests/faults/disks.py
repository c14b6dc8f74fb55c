"""A small disk of its own for a case: a tmpfs that fills up, and a mount that nothing can be written to.

Both are real: the kernel refuses, whatever way a library writes. The mounts are made in a namespace of one process,
which children of the driver enter; they are gone with it, however the tests end, and nobody else sees them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

#: bytes of a disk that is not filled; more than any case writes
_SIZE = 64 * 2**20
# $1: where the disk is mounted, $2: the folder that is to lie on it; then one option of the folder's mount a line
_HOLDER = f"""
mount -t tmpfs -o size={_SIZE},mode=755 tmpfs "$1" && mkdir "$1/case" && mount --bind "$1/case" "$2" && echo ready
while read -r option; do mount -o "remount,bind,$option" "$2" && echo done; done
"""


class Disk:
    """Within the block a folder lies on a disk of its own, in the namespace of :attr:`pid` alone.

    Args:
        folder: that exists, where files are put besides.
        case: the folder that lies on the disk; it is empty there.

    Attributes:
        pid: of the process whose mounts a child takes over.
        own_user: whether its mounts are of a user namespace, too (where the tests are not run by root).

    Raises:
        OSError: mounts are refused here.
    """

    def __init__(self, folder: Path, case: Path) -> None:
        self._mounted, self._case = folder / "disk", case
        self.own_user = os.geteuid() != 0

    def __enter__(self) -> Self:
        self._mounted.mkdir(exist_ok=True)
        self._case.mkdir(exist_ok=True)
        options = ["--mount", "--propagation", "private", *(["--map-root-user"] if self.own_user else [])]
        self._holder = subprocess.Popen(
            ["unshare", *options, "sh", "-c", _HOLDER, "sh", str(self._mounted), str(self._case)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self._holder.pid
        if not self._says("ready"):
            raise OSError(self._holder.communicate()[1].strip())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._holder.communicate()

    def _says(self, word: str) -> bool:
        assert self._holder.stdout is not None
        return self._holder.stdout.readline().strip() == word

    def seen(self, path: Path) -> Path:
        """Where this process sees a file or folder of the namespace."""
        return Path(f"/proc/{self.pid}/root{path}")

    @property
    def case(self) -> Path:
        """Where this process sees the folder that lies on the disk."""
        return self.seen(self._case)

    def leave(self, room: int | None) -> None:
        """Fill the disk, but for so many bytes; None: free it again."""
        ballast = self.seen(self._mounted) / "ballast"
        ballast.unlink(missing_ok=True)
        if room is not None:
            free = shutil.disk_usage(ballast.parent).free
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, max(free - room, 1))

    def write(self, may: bool) -> None:
        """Let nothing be written to the folder, or all again."""
        assert self._holder.stdin is not None
        self._holder.stdin.write("rw\n" if may else "ro\n")
        self._holder.stdin.flush()
        assert self._says("done"), self._holder.communicate()[1]


@cache
def refused() -> str:
    """Why no disk can be mounted here; empty where it can."""
    with TemporaryDirectory(prefix="recgraph-disk-") as made:
        folder = Path(made)
        try:
            with Disk(folder, folder / "case") as disk:
                disk.write(False)
        except OSError as error:
            return f"no tmpfs can be mounted here, not even in a namespace: {error}"
    return ""
