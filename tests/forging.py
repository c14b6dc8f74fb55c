"""Files that a stranger could have made: what the formats allow to say, and no writer of the library says."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["signed", "tensor_file", "thrift", "varint", "with_config"]


def signed(folder: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """A bundle whose ``config.json`` names its files as they are now, with some entries changed."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    names = [name for name in config["files"] if (folder / name).is_file()]
    config["files"] = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    config.pop("imprint", None)  # without one, nothing says what the values must be
    path.write_text(json.dumps({**config, **(changes or {})}), encoding="utf-8")
    return folder


def with_config(folder: Path, at: Iterable[str], value: Any) -> Path:
    """A bundle with one value of ``config.json`` changed."""
    path, (*way, last) = folder / "config.json", at
    config = held = json.loads(path.read_text(encoding="utf-8"))
    config.pop("imprint", None)
    for name in way:
        held = held[name]
    held[last] = value
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder


def tensor_file(path: Path, head: Any, content: bytes = b"") -> Path:
    """A safetensors file with this head and these bytes."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


def thrift(fields: Mapping[int, Any]) -> bytes:
    """A structure in Thrift's compact protocol: numbers, bytes, structures (mappings) and lists of these."""
    made, before = b"", 0
    for number, value in sorted(fields.items()):
        kind, content = _value(value)
        made += bytes([(number - before) << 4 | kind]) + content
        before = number
    return made + b"\0"


def _value(value: Any) -> tuple[int, bytes]:
    if isinstance(value, int):
        return 6, varint(value << 1 if value >= 0 else (-value << 1) - 1)
    if isinstance(value, bytes):
        return 8, varint(len(value)) + value
    if isinstance(value, Mapping):
        return 12, thrift(value)
    made = [_value(each) for each in value]
    kind = made[0][0] if made else 6
    return 9, bytes([15 << 4 | kind]) + varint(len(made)) + b"".join(content for _, content in made)


def varint(value: int) -> bytes:
    """A number in seven bits a byte, the lowest first."""
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)
