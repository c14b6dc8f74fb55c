"""Members of zip archives: bounded by what the archive declares and by what is really unpacked."""

from __future__ import annotations

import errno
import lzma
import stat
import zipfile
import zlib
from pathlib import Path

from recgraph.bounded.files import file_size
from recgraph.data.errors import CorruptFileError

__all__ = ["FLOOR", "RATIO", "is_zip", "unpack_member"]

#: a member may be so many times as large as its archive, and at least so many bytes
RATIO, FLOOR = 50, 64 << 20
_BLOCK = 1 << 20
_MOST_MEMBERS = 100_000
#: RuntimeError: it is encrypted; UnicodeDecodeError: a member's name is no text
_DAMAGES = (
    zipfile.BadZipFile,
    EOFError,
    RuntimeError,
    NotImplementedError,
    UnicodeDecodeError,
    zlib.error,
    lzma.LZMAError,
)


def is_zip(path: Path) -> bool:
    """Whether a file is a zip archive (a wheel is one)."""
    file_size(path)
    return zipfile.is_zipfile(path)


def unpack_member(archive: Path, name: str, into: Path, most: int | None = None) -> None:
    """Write one member of an archive to a file.

    Args:
        most: bytes that it may have; None: ``RATIO`` times the archive, at least ``FLOOR``.

    Raises:
        KeyError: there is no such member.
        CorruptFileError: the archive is damaged or encrypted, the member is no regular file, or it is larger; the file
            is then removed.
    """
    size = file_size(archive)
    limit = max(FLOOR, RATIO * size) if most is None else most
    try:
        with zipfile.ZipFile(archive) as opened:
            if len(opened.filelist) > _MOST_MEMBERS:
                raise CorruptFileError(f"the archive has more than {_MOST_MEMBERS:,} members", path=archive)
            info = opened.getinfo(name)
            kind = stat.S_IFMT(info.external_attr >> 16)
            if info.is_dir() or kind not in (0, stat.S_IFREG):
                raise CorruptFileError(f"member {name!r} is no regular file", path=archive)
            _check(info.file_size, limit, name, archive)
            done = 0
            with opened.open(info) as member, into.open("wb") as out:
                while block := member.read(_BLOCK):
                    done += len(block)
                    _check(done, limit, name, archive)
                    out.write(block)
    except _DAMAGES as error:
        into.unlink(missing_ok=True)
        raise CorruptFileError(f"the archive cannot be unpacked: {error}", path=archive) from None
    except OSError as error:
        into.unlink(missing_ok=True)
        if error.errno != errno.EINVAL:  # a place before the beginning of the archive
            raise
        raise CorruptFileError(f"the archive cannot be unpacked: {error}", path=archive) from None
    except CorruptFileError:
        into.unlink(missing_ok=True)
        raise


def _check(n_bytes: int, limit: int, name: str, archive: Path) -> None:
    if n_bytes > limit:
        raise CorruptFileError(
            f"member {name!r} has more than {limit:,} bytes; a card allows more with max_bytes", path=archive
        )
