"""The options by which commands take data: a data set with a card, or files of one's own."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from recgraph.cli.watching import showing

if TYPE_CHECKING:
    from recgraph.data.reading import Reading

__all__ = ["DatasetArgument", "GivenData", "GivenFile", "takes_data", "takes_file"]

PANEL = "A file of your own"


def _option(text: str, *names: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, metavar=metavar, help=text, rich_help_panel=PANEL)


DatasetOption = Annotated[
    str | None, typer.Option("--dataset", "-d", metavar="NAME", help="A data set that `recgraph data list` shows.")
]
DatasetArgument = Annotated[
    str | None, typer.Argument(metavar="[DATASET]", help="A data set that `recgraph data list` shows.")
]
DataOption = Annotated[
    str | None,
    _option(
        "A log in place of a data set: csv, tsv, jsonl, parquet or .inter, also packed; a folder or pattern of them.",
        "--data",
        metavar="PATH",
    ),
]
_PARTS = ("train", "valid", "test")
_PART_TEXTS = {
    "train": "In place of --data: the training part, where the parts are files of their own.",
    "valid": "The validation part; without it one is drawn from train.",
    "test": "The test part, of which training and tuning read nothing.",
}
#: the parts of a split as files of their own
_PART_OPTIONS = {
    name: Annotated[str | None, _option(text, f"--{name}", metavar="PATH")] for name, text in _PART_TEXTS.items()
}
_NAME = "NAME"
#: option -> the field of :class:`recgraph.data.reading.Reading` and how it is written
_READING: dict[str, tuple[str, Any]] = {
    "user": ("user", Annotated[str | None, _option("Its column of users; guessed.", "--user", metavar=_NAME)]),
    "item": ("item", Annotated[str | None, _option("Its column of items; guessed.", "--item", metavar=_NAME)]),
    "time": (
        "timestamp",
        Annotated[str | None, _option("Its column of times; guessed. none: without.", "--time", metavar=_NAME)],
    ),
    "rating": (
        "rating",
        Annotated[str | None, _option("Its column of ratings; guessed. none: without.", "--rating", metavar=_NAME)],
    ),
    "weight": ("weight", Annotated[str | None, _option("Its column of weights.", "--weight", metavar=_NAME)]),
    "time_format": (
        "time_format",
        Annotated[str | None, _option("How times are written, e.g. %d/%m/%Y.", "--time-format", metavar="FORMAT")],
    ),
    "data_format": (
        "format",
        Annotated[
            str | None,
            _option("csv, tsv, jsonl, parquet, recbole or sequences.", "--data-format", metavar="FORMAT"),
        ],
    ),
    "separator": ("separator", Annotated[str | None, _option("Of csv, e.g. ';' or '::'.", "--separator")]),
    "names": (
        "names",
        Annotated[str | None, _option("All columns of a csv without header: a,b,c.", "--names", metavar="NAMES")],
    ),
    "encoding": ("encoding", Annotated[str | None, _option("Of text, e.g. latin-1; else UTF-8.", "--encoding")]),
    "item_features": (
        "item_features",
        Annotated[
            str | None,
            _option("A file of item features (titles, genres), one row an item.", "--item-features", metavar="FILE"),
        ],
    ),
    "user_features": (
        "user_features",
        Annotated[str | None, _option("A file of user features, one row a user.", "--user-features", metavar="FILE")],
    ),
    "list": (
        "lists",
        Annotated[
            list[str] | None,
            _option(
                "A column of features that is a list, and between what: 'genres=|'; 'city=': each text is one value.",
                "--list",
                metavar="COLUMN=SEPARATOR",
            ),
        ],
    ),
    "no_quotes": ("quotes", Annotated[bool, _option('No field is quoted: " is a part of its field.', "--no-quotes")]),
    "drop_missing_ids": (
        "missing_ids",
        Annotated[bool, _option("Leave out rows without a user or an item.", "--drop-missing-ids")],
    ),
}
#: options without a value
_FLAGS = ("no_quotes", "drop_missing_ids")


def _shows_reading() -> contextlib.ExitStack:
    """What is found out of a file is shown while it is read."""
    stack = contextlib.ExitStack()
    for name in ("recgraph.data.reading", "recgraph.data.ingest", "recgraph.data.strategies"):
        stack.enter_context(showing(name))
    return stack


@dataclass(frozen=True)
class GivenData:
    """The data that a command is given.

    Attributes:
        dataset: the name of a card, the path of one, or the path of a log.
        reading: how the log is read, as far as it is given.
    """

    dataset: str
    reading: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """What it adds to the settings of a run."""
        return {"reading": self.reading} if self.reading else {}

    def shown(self) -> contextlib.ExitStack:
        """A block within which is shown what is found out of the file."""
        return _shows_reading()


@dataclass(frozen=True)
class GivenFile:
    """The file that a command is given, and how it is read."""

    path: str
    reading: Reading

    def shown(self) -> contextlib.ExitStack:
        """A block within which is shown what is found out of the file."""
        return _shows_reading()


def takes_data(command: Callable[..., None], *, dataset: Any = DatasetOption) -> Callable[..., None]:
    """Give a command the options of this module in place of its parameter ``source``, a :class:`GivenData`.

    Args:
        command: it has that parameter.
        dataset: how the data set is given.
    """
    return _with_options(command, {"dataset": dataset, "data": DataOption, **_PART_OPTIONS}, _given_data)


def takes_file(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a path and the options of reading in place of its parameter ``source``, a :class:`GivenFile`."""
    help_ = "A log: csv, tsv, jsonl, parquet or .inter, also packed; a folder or pattern of them."
    return _with_options(command, {"data": Annotated[str, typer.Argument(metavar="PATH", help=help_)]}, _given_file)


def _with_options(
    command: Callable[..., None], first: dict[str, Any], given: Callable[..., Any]
) -> Callable[..., None]:
    signature = inspect.signature(command).parameters
    options = {**first, **{name: hint for name, (_, hint) in _READING.items()}}
    hints = {**get_type_hints(command, include_extras=True), **options}
    defaults = {name: value.default for name, value in signature.items()} | dict.fromkeys(_READING)
    defaults |= {name: inspect.Parameter.empty if hint.__origin__ is str else None for name, hint in first.items()}
    defaults |= dict.fromkeys(_FLAGS, False)
    own = list(signature)
    place = own.index("source")
    names = [*own[:place], *first, *own[place + 1 :], *_READING]

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        source = given(**{name: values.pop(name) for name in (*first, *_READING)})
        command(**values, source=source)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, keyword, default=defaults[name], annotation=hints[name]) for name in names]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {name: hints[name] for name in names}
    return with_options


def _parts_given(train: str | None, valid: str | None, test: str | None) -> dict[str, str]:
    """The absolute paths of parts that are given; empty where none is.

    Raises:
        ValueError: valid or test without train, or train alone.
    """
    given = {name: path for name, path in zip(_PARTS, (train, valid, test), strict=True) if path is not None}
    if given and (train is None or len(given) == 1):
        named = " and ".join(f"--{name} {path}" for name, path in given.items())
        raise ValueError(f"{named}: parts are given together, --train FILE and --valid FILE, --test FILE or both")
    return {name: str(Path(path).absolute()) for name, path in given.items()}


def _given_data(
    dataset: str | None, data: str | None, train: str | None, valid: str | None, test: str | None, **options: Any
) -> GivenData:
    reading = _reading_of(options)
    parts = _parts_given(train, valid, test)
    other = next((f"--{name} {of}" for name, of in (("dataset", dataset), ("data", data)) if of is not None), None)
    if parts and other:
        raise ValueError(f"{other} and --train {train} exclude one another; give one of them")
    if parts:
        return GivenData(parts.pop("train"), {**reading, **parts})
    if dataset is not None and data is not None:
        raise ValueError(f"--dataset {dataset} and --data {data} exclude one another; give one of them")
    if data is not None:
        return GivenData(str(Path(data).absolute()), reading)
    if dataset is None:
        raise ValueError(
            "say which data: --data FILE (a log of your own), --train FILE and --test FILE (its parts), or a data set "
            "that `recgraph data list` shows"
        )
    if reading:
        name = next(name for name, (key, _) in _READING.items() if key in reading)
        raise ValueError(
            f"--{name.replace('_', '-')} says how a file of your own is read: it needs --data FILE (or --train FILE)"
        )
    return GivenData(dataset)


def _given_file(data: str, **options: Any) -> GivenFile:
    from recgraph.data.reading import Reading

    return GivenFile(data, Reading.of(_reading_of(options)))


def _reading_of(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of :class:`recgraph.data.reading.Reading` that are given."""
    given = {_READING[name][0]: value for name, value in options.items() if value not in (None, False, [])}
    if "missing_ids" in given:
        given["missing_ids"] = "drop"
    if "quotes" in given:
        given["quotes"] = False
    if "lists" in given:
        given["lists"] = dict(_column_and_separator(text) for text in given["lists"])
    if "names" in given:
        given["names"] = [name.strip() for name in given["names"].split(",")]
    given |= {name: str(Path(given[name]).absolute()) for name in ("user_features", "item_features") if name in given}
    if given.get("separator") == "\\t":
        given["separator"] = "\t"
    return given


def _column_and_separator(text: str) -> tuple[str, str]:
    column, equals, separator = text.partition("=")
    if not (column and equals):
        raise ValueError(f"--list {text!r} is not COLUMN=SEPARATOR, e.g. 'genres=|'")
    return column, separator
