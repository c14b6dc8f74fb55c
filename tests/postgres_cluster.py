"""A PostgreSQL server of our own: a cluster in a temporary folder, run by a user without privileges, on a socket."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# the server refuses to run as root
_UNPRIVILEGED = ("postgres", "nobody")


def programs() -> Path | None:
    """The folder of ``initdb`` and ``pg_ctl``, of the newest version; Debian keeps it off the path."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    if found:
        return found[-1].parent
    there = shutil.which("initdb")
    return Path(there).parent if there else None


@contextmanager
def running(folder: Path) -> Iterator[str]:
    """Run a server; the URL of its database."""
    user = _user()
    home = Path(tempfile.mkdtemp(prefix="recgraph-postgres-", dir="/tmp"))  # short: a socket's path has 107 bytes
    try:
        if user is not None:
            os.chown(home, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)
        data = home / "data"
        _call(
            user, home, folder / "initdb", "-D", data, "-U", "tuner", "-A", "trust", "-N", "-E", "UTF8", "--no-locale"
        )
        options = f"-k {home} -c listen_addresses='' -c fsync=off"
        _call(user, home, folder / "pg_ctl", "-D", data, "-w", "-l", home / "server.log", "-o", options, "start")
        try:
            yield f"postgresql://tuner@/postgres?host={home}"
        finally:
            _call(user, home, folder / "pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _user() -> str | None:
    """Whom to run as; None: as ourselves."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    found = next((name for name in _UNPRIVILEGED if name in known), None)
    assert found is not None, f"{getpass.getuser()} needs one of {_UNPRIVILEGED} to run a server"
    return found


def _call(user: str | None, home: Path, *command: object) -> None:
    group = pwd.getpwnam(user).pw_gid if user is not None else None
    with (home.parent / f"{home.name}.log").open("wb") as log:  # a file: the server would keep a pipe open
        done = subprocess.run(
            [str(part) for part in command],
            user=user,
            group=group,
            extra_groups=[] if user is not None else None,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            check=False,
        )
    said = Path(log.name).read_text(errors="replace")
    Path(log.name).unlink()
    assert done.returncode == 0, f"{command[0]} failed: {said}"
