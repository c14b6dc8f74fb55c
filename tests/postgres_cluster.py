"""A PostgreSQL server of our own: a cluster in a temporary folder, run by a user without
privileges, on a socket.
"""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# the server refuses to run as root
_UNPRIVILEGED = ("postgres", "nobody")
#: seconds
_TO_START = 60.0


def programs() -> Path | None:
    """The folder of ``initdb`` and ``postgres``, of the newest version; Debian keeps it off the
    path.
    """
    found = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4])
    )
    if found:
        return found[-1].parent
    there = shutil.which("initdb")
    return Path(there).parent if there else None


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Run a server; the URL of its database."""
    user = _user()
    # short: a socket's path has 107 bytes
    home = Path(tempfile.mkdtemp(prefix="recgraph-postgres-", dir="/tmp"))
    try:
        if user is not None:
            os.chown(home, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        data = home / "data"
        _call(
            user,
            home,
            folder / "initdb",
            "-D",
            data,
            "-U",
            "tuner",
            "-A",
            "trust",
            "-N",
            "-E",
            "UTF8",
            "--no-locale",
        )
        with _served(user, home, folder):
            yield f"postgresql://tuner@/postgres?host={home}"
    finally:
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def _served(user: str | None, home: Path, folder: Path) -> Iterator[None]:
    """The server, for as long as we hold its standard input: it ends with us, however we end."""
    serve = [
        folder / "postgres",
        "-D",
        home / "data",
        "-k",
        home,
        "-c",
        "listen_addresses=",
        "-c",
        "fsync=off",
    ]
    until_we_end = '"$@" & read _; kill -QUIT $!; wait $!'
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(
            ["sh", "-c", until_we_end, "sh", *map(str, serve)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=home,
            start_new_session=True,  # Ctrl-C is for the tests
            **_as(user),
        )
    assert server.stdin is not None
    try:
        until = time.monotonic() + _TO_START
        while subprocess.run([folder / "pg_isready", "-q", "-h", home], check=False).returncode:
            said = (home / "server.log").read_text(errors="replace")
            assert time.monotonic() < until, f"the server does not answer: {said}"
            time.sleep(0.05)
        yield
    finally:
        server.stdin.close()
        server.wait()


def _user() -> str | None:
    """Whom to run as; None: as ourselves."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    found = next((name for name in _UNPRIVILEGED if name in known), None)
    assert found is not None, f"{getpass.getuser()} needs one of {_UNPRIVILEGED} to run a server"
    return found


def _as(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    return {"user": user, "group": pwd.getpwnam(user).pw_gid, "extra_groups": []}


def _call(user: str | None, home: Path, *command: object) -> None:
    done = subprocess.run(
        [str(part) for part in command], cwd=home, capture_output=True, check=False, **_as(user)
    )
    assert done.returncode == 0, f"{command[0]} failed: {done.stderr.decode(errors='replace')}"
