"""Damaged and hostile copies of valid files, each from a seed: bytes, JSON values and whole folders are changed."""

from __future__ import annotations

import contextlib
import json
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["HOSTILE", "mutate_bytes", "mutate_file", "mutate_json", "mutate_tensors"]

#: numbers at which sizes, offsets and indices go wrong
NUMBERS = (0, 1, -1, 2**7, 2**15, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 8 * 10**8, 10**6, 10**9, 10**30)
#: values in place of any other
HOSTILE: tuple[Any, ...] = (
    *NUMBERS,
    None,
    True,
    "",
    "../x",
    "/etc/passwd",
    "a/../../b",
    "C:\\x",
    "os.system",
    "nul\0",
    "\ud800".encode("utf-8", "surrogatepass").decode("utf-8", "replace"),
    "x; touch y",
    "<script>alert(1)</script>",
    "x" * 5000,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    {"": {}},
    [1, "a", None],
)


def mutate_bytes(data: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """A copy with one to four changes: bits, numbers, cuts, repeats, insertions, pieces of other files.

    Args:
        others: files that pieces are taken from.
    """
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        rng.choice(_CHANGES)(made, rng, others)
    return bytes(made)


def _flip(made: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    for _ in range(rng.choice((1, 1, 8))):
        if made:
            made[_place(made, rng)] ^= 1 << rng.randrange(8)


def _number(made: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    packed = struct.pack("<Q", rng.choice(NUMBERS) % 2**64)[: rng.choice((1, 2, 4, 8))]
    at = _place(made, rng)
    made[at : at + len(packed)] = packed


def _cut(made: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    at = _place(made, rng)
    del made[at : len(made) if rng.random() < 0.5 else at + rng.choice((1, 4, 64, 1024))]


def _repeat(made: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    at, width = _place(made, rng), rng.choice((1, 8, 64, 512))
    made[at:at] = bytes(made[at : at + width]) * rng.choice((1, 2, 50))


def _insert(made: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    at = _place(made, rng)
    made[at:at] = rng.choice((b"\0" * 16, b"\xff" * 16, b"[" * 2000, b'{"a":' * 500, rng.randbytes(9)))


def _splice(made: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    if others and (other := rng.choice(others)):
        at, start = _place(made, rng), rng.randrange(len(other))
        piece = other[start : start + rng.choice((8, 64, len(other)))]
        made[at : at + len(piece)] = piece


def _empty(made: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    made.clear()


_CHANGES: tuple[Callable[[bytearray, random.Random, Sequence[bytes]], None], ...] = (
    *(_flip,) * 6,
    *(_number,) * 6,
    *(_cut,) * 3,
    *(_repeat,) * 2,
    *(_insert,) * 2,
    *(_splice,) * 2,
    _empty,
)


def _place(made: bytearray, rng: random.Random) -> int:
    """Anywhere; more often near the ends, where heads and footers are."""
    if not made:
        return 0
    near = rng.random()
    if near < 0.25:
        return rng.randrange(min(len(made), 64))
    if near < 0.5:
        return len(made) - 1 - rng.randrange(min(len(made), 256))
    return rng.randrange(len(made))


def mutate_json(value: Any, rng: random.Random) -> Any:
    """A copy of a JSON value with one of its values replaced, removed, repeated or deeply nested."""
    copied = json.loads(json.dumps(value))
    places = [*_places(copied)]
    if not places or rng.random() < 0.02:
        return rng.choice(HOSTILE)
    holder, key = rng.choice(places)
    change = rng.random()
    if change < 0.6:
        holder[key] = rng.choice(HOSTILE)
    elif change < 0.7:
        del holder[key]
    elif change < 0.8 and isinstance(holder, dict):
        holder[str(rng.choice(HOSTILE))] = holder.pop(key)
    elif change < 0.9:
        other, its = rng.choice(places)
        holder[key] = json.loads(json.dumps(other[its])) if its in other or isinstance(other, list) else None
    elif change < 0.95 and isinstance(holder, list):
        holder.extend([holder[key]] * rng.choice((1, 1000)))
    else:
        deep: Any = holder[key]
        for _ in range(rng.choice((3, 900))):
            deep = [deep]
        holder[key] = deep
    return copied


def _places(value: Any) -> Any:
    """All (container, key) of a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in [*items]:
        yield value, key
        yield from _places(held)


def mutate_tensors(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with one value of its header changed; the length before the header fits."""
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(mutate_json(json.loads(data[8 : 8 + size]), rng)).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def mutate_file(path: Path, rng: random.Random, others: Sequence[bytes] = ()) -> None:
    """Change a file in place: by its structure where it is JSON or safetensors, or its bytes."""
    data = path.read_bytes()
    made = mutate_bytes(data, rng, others)
    # a file that was changed before may have no structure any more
    with contextlib.suppress(ValueError, RecursionError, AttributeError):
        if rng.random() < 0.6 and path.suffix == ".json":
            made = json.dumps(mutate_json(json.loads(data), rng)).encode()
        elif rng.random() < 0.5 and path.suffix == ".safetensors":
            made = mutate_tensors(data, rng)
    path.write_bytes(made)
