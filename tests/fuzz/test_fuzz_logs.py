"""Damaged and hostile logs and files of features, in every format: read, or a documented error that names the file."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path

import mutator
import polars as pl
import pytest
from campaign import Target, campaign, minutes, seed

import recgraph as rg

ROWS = [(f"u{i % 7}", f"i{i * 5 % 11}", i % 5 + 0.5, 1_700_000_000 + 60 * i) for i in range(60)]
NAMES = ("user_id", "item_id", "rating", "timestamp")
ITEMS = [(f"i{i}", f'Title "{i}", part', ["a", "b"][: i % 3], i / 2) for i in range(11)]
#: fields in place of others
FIELDS = (
    *(
        '"',
        '""',
        '"a',
        'a"b',
        '"a"b',
        '"a\nb"',
        "",
        " ",
        "\0",
        "\ufeff",
        "\x1b[31m",
        "\u202e",
        "é",
        "=1+1",
        "a,b",
        "a\tb",
    ),
    *("-1", "007", "1.0", "1e400", "nan", "inf", "9" * 30, "2024-02-30", "2024-05-01T12:30:00Z", "9999-12-31", "[1]"),
    *('{"a": 1}', "NULL", "x" * 200_000, "user_id", "rating:float", "::"),
)


def _text(separator: str, names: tuple[str, ...] = NAMES) -> str:
    return "\n".join([separator.join(names), *(separator.join(map(str, row)) for row in ROWS)]) + "\n"


def _frame() -> pl.DataFrame:
    return pl.DataFrame(ROWS, schema=NAMES, orient="row")


def _items() -> pl.DataFrame:
    return pl.DataFrame(ITEMS, schema=("item_id", "title", "tags", "year"), orient="row")


def change_fields(folder: Path, rng: random.Random) -> None:
    """Change the bytes of a file, or some of its fields and lines."""
    path = rng.choice(sorted(folder.iterdir()))
    data = path.read_bytes()
    if rng.random() < 0.5 or path.suffix == ".parquet":
        path.write_bytes(mutator.mutate_bytes(data, rng))
        return
    is_packed = path.suffix == ".gz"
    text = (gzip.decompress(data) if is_packed else data).decode()
    mark = next(mark for mark in ("\t", "::", ",", " ") if mark in text)
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.choice((0, rng.randrange(len(lines))))
        rng.choice((_field, _field, _field, _line))(lines, at, mark, rng)
    made = rng.choice(("\n", "\n", "\n", "\r\n", "\r", "\n\n")).join(lines).encode(errors="surrogatepass")
    made = rng.choice((b"", b"", b"", b"\xef\xbb\xbf", b"\xff\xfe")) + made
    path.write_bytes(gzip.compress(made) if is_packed else made)


def _field(lines: list[str], at: int, mark: str, rng: random.Random) -> None:
    fields = lines[at].split(mark)
    place = rng.randrange(len(fields))
    fields[place : place + rng.choice((0, 1, 1, 1))] = [rng.choice(FIELDS)] * rng.choice((0, 1, 1, 1, 1, 3))
    lines[at] = mark.join(fields)


def _line(lines: list[str], at: int, mark: str, rng: random.Random) -> None:
    lines[at : at + rng.choice((0, 1))] = [
        rng.choice(("", mark, mark * 9, lines[at], lines[0], "x" * 300_000))
    ] * rng.choice((0, 1, 2, 300))


def change_values(folder: Path, rng: random.Random) -> None:
    """Change a Parquet file: a column gets another type or other values, or its bytes change."""
    path = rng.choice(sorted(folder.iterdir()))
    frame = pl.read_parquet(path)
    name = rng.choice(frame.columns)
    values = frame[name]
    odd: tuple[Callable[[], pl.Series], ...] = (
        lambda: pl.Series([rng.choice(mutator.NUMBERS[:-2]) for _ in values], dtype=pl.Int64, strict=False),
        lambda: pl.Series([[1, 2]] * len(values)),
        lambda: pl.Series([{"a": [None]}] * len(values)),
        lambda: pl.Series([rng.choice((b"\xff", b"", b"a")) for _ in values]),
        lambda: pl.Series([rng.choice((float("nan"), float("inf"), 1e300, -0.0, 1.0)) for _ in values]),
        lambda: pl.Series([rng.randrange(-(2**62), 2**62) for _ in values]).cast(
            pl.Datetime(rng.choice(("ms", "us", "ns")), rng.choice((None, "UTC", "Europe/Berlin")))
        ),
        lambda: pl.Series([rng.randrange(-(2**31), 2**31) for _ in values], dtype=pl.Int32).cast(pl.Date),
        lambda: pl.Series([rng.randrange(0, 10**9) for _ in values]).cast(pl.Duration("ns")),
        lambda: pl.Series([rng.choice(FIELDS) for _ in values]),
        lambda: pl.Series([rng.choice(FIELDS) for _ in values], dtype=pl.Categorical),
        lambda: pl.Series([rng.choice((None, True, False)) for _ in values], dtype=pl.Boolean),
        lambda: pl.Series([None] * len(values)),
        lambda: pl.Series([rng.choice(("1", "-3", "7")) for _ in values]).cast(pl.Decimal(12, rng.choice((0, 2)))),
    )
    frame = frame.with_columns(rng.choice(odd)().alias(name))
    if rng.random() < 0.2:
        frame = frame.rename({name: rng.choice(("", "a.b", "\0", "[/]", "type", "user_id "))})
    frame.clear().write_parquet(path) if rng.random() < 0.03 else frame.write_parquet(path)


def change_lines(folder: Path, rng: random.Random) -> None:
    """Change a file of JSON lines: a value of some of its objects, or its bytes."""
    path = rng.choice(sorted(folder.iterdir()))
    if rng.random() < 0.4:
        path.write_bytes(mutator.mutate_bytes(path.read_bytes(), rng))
        return
    lines = path.read_text().split("\n")
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(len(lines) - 1)
        if len(lines[at]) < 1000:  # else it is changed already
            lines[at] = json.dumps(mutator.mutate_json(json.loads(lines[at]), rng), ensure_ascii=rng.random() < 0.5)
    path.write_text("\n".join(lines), errors="surrogatepass")


def _writer(name: str, content: str | bytes, items: str | bytes = "") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        if items:
            (folder / f"items.{name.partition('.')[2]}").write_bytes(
                items if isinstance(items, bytes) else items.encode()
            )

    return write


def _write_parquet(folder: Path) -> None:
    _frame().write_parquet(folder / "log.parquet")
    _items().write_parquet(folder / "items.parquet")


def _reader(name: str, format: str | None = None) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        items = folder / f"items.{name.partition('.')[2]}"
        given = items if items.exists() and format is None else None
        data = rg.load_data(folder / name, format=format, item_features=given)  # type: ignore[arg-type]
        # what is read can be used: split, and handed out again
        data.split("ratio", seed=0).sealed()
        return data.to_frame()

    return read


_CSV_ITEMS = _items().with_columns(pl.col("tags").list.join(" ")).write_csv()
_ATOMIC = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
_JSON = "".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in ROWS)
_SEQUENCES = "".join(f"u{u} " + " ".join(f"i{(u + k) % 9}" for k in range(8)) + "\n" for u in range(9))
ERRORS = (ValueError, FileNotFoundError)

CSV = Target(_writer("log.csv", _text(","), _CSV_ITEMS), _reader("log.csv"), ERRORS, change_fields)
PACKED = Target(_writer("log.csv.gz", gzip.compress(_text(",").encode())), _reader("log.csv.gz"), ERRORS, change_fields)
TSV = Target(_writer("log.tsv", _text("\t")), _reader("log.tsv"), ERRORS, change_fields)
DOUBLE = Target(_writer("log.dat", _text("::")), _reader("log.dat"), ERRORS, change_fields)
ATOMIC = Target(_writer("log.inter", _text("\t", _ATOMIC)), _reader("log.inter"), ERRORS, change_fields)
SEQUENCES = Target(_writer("log.txt", _SEQUENCES), _reader("log.txt", "sequences"), ERRORS, change_fields)
JSON = Target(_writer("log.jsonl", _JSON, _items().write_ndjson()), _reader("log.jsonl"), ERRORS, change_lines)
PARQUET = Target(_write_parquet, _reader("log.parquet"), ERRORS)
VALUES = Target(_write_parquet, _reader("log.parquet"), ERRORS, change_values)


@pytest.mark.parametrize("name", ["CSV", "PACKED", "TSV", "DOUBLE", "ATOMIC", "SEQUENCES", "JSON", "PARQUET", "VALUES"])
def test_logs_are_read_or_refused(name: str) -> None:
    wanted = minutes()
    report = campaign(f"test_fuzz_logs:{name}", 10**9 if wanted else 60, seed(), wanted or None)
    print(report)
    assert not report.failures, report
