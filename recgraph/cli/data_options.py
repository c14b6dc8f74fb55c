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
    from recgraph.data.read import Reading

_LOG = "A log: csv, tsv, jsonl, parquet or .inter, also packed; a folder or pattern of them."
DatasetOption = Annotated[
    str | None, typer.Option("--dataset", "-d", metavar="NAME", help="A data set that `recgraph data list` shows.")
]
DatasetArgument = Annotated[
    str | None, typer.Argument(metavar="[DATASET]", help="A data set that `recgraph data list` shows.")
]


def _option(name: str, metavar: str, text: str, kind: Any = str | None) -> Any:
    flag = None if kind is bool else metavar
    return Annotated[kind, typer.Option(name, metavar=flag, help=text, rich_help_panel="A file of your own")]


#: the log, or the parts of a split as files of their own
_DATA = {
    "data": _option("--data", "PATH", f"{_LOG} In place of a data set."),
    "train": _option("--train", "PATH", "In place of --data: the training part, where parts are files of their own."),
    "valid": _option("--valid", "PATH", "The validation part; without it one is drawn from train."),
    "test": _option("--test", "PATH", "The test part, of which training and tuning read nothing."),
}
_LIST = "A column of features that is a list, and between what: 'genres=|'; 'city=': each text is one value."
#: by the fields of :class:`recgraph.data.read.Reading`
_READING = {
    "user": _option("--user", "NAME", "Its column of users; guessed."),
    "item": _option("--item", "NAME", "Its column of items; guessed."),
    "timestamp": _option("--time", "NAME", "Its column of times; guessed. none: without."),
    "rating": _option("--rating", "NAME", "Its column of ratings; guessed. none: without."),
    "weight": _option("--weight", "NAME", "Its column of weights."),
    "time_format": _option("--time-format", "FORMAT", "How times are written, e.g. %d/%m/%Y."),
    "format": _option("--data-format", "FORMAT", "csv, tsv, jsonl, parquet, recbole or sequences."),
    "separator": _option("--separator", "TEXT", "Of csv, e.g. ';' or '::'."),
    "names": _option("--names", "NAMES", "All columns of a csv without header: a,b,c."),
    "encoding": _option("--encoding", "NAME", "Of text, e.g. latin-1; else UTF-8."),
    "item_features": _option("--item-features", "FILE", "A file of features (titles, genres), one row an item."),
    "user_features": _option("--user-features", "FILE", "A file of user features, one row a user."),
    "lists": _option("--list", "COLUMN=SEPARATOR", _LIST, list[str] | None),
    "quotes": _option("--no-quotes", "", 'No field is quoted: " is a part of its field.', bool),
    "missing_ids": _option("--drop-missing-ids", "", "Leave out rows without a user or an item.", bool),
}


class _Shown:
    def shown(self) -> contextlib.ExitStack:
        """A block within which is shown what is found out of the file."""
        stack = contextlib.ExitStack()
        for name in ("recgraph.data.read", "recgraph.data.log", "recgraph.data.strategies"):
            stack.enter_context(showing(name))
        return stack


@dataclass(frozen=True)
class GivenData(_Shown):
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


@dataclass(frozen=True)
class GivenFile(_Shown):
    """The file that a command is given, and how it is read."""

    path: str
    reading: Reading


def takes_data(command: Callable[..., None], *, dataset: Any = DatasetOption) -> Callable[..., None]:
    """Give a command the options of this module in place of its parameter ``source``, a :class:`GivenData`.

    Args:
        command: it has that parameter.
        dataset: how the data set is given.
    """
    return _with_options(command, {"dataset": dataset, **_DATA}, _given_data)


def takes_file(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a path and the options of reading in place of its parameter ``source``, a :class:`GivenFile`."""
    return _with_options(command, {"path": Annotated[str, typer.Argument(metavar="PATH", help=_LOG)]}, _given_file)


def _with_options(
    command: Callable[..., None], first: dict[str, Any], given: Callable[..., Any]
) -> Callable[..., None]:
    hints = {**get_type_hints(command, include_extras=True), **first, **_READING}
    own = inspect.signature(command).parameters
    defaults = {name: value.default for name, value in own.items()}
    for name, hint in {**first, **_READING}.items():
        defaults[name] = {str: inspect.Parameter.empty, bool: False}.get(hint.__origin__)
    place = [*own].index("source")
    before, after = [*own][:place], [*own][place + 1 :]
    names = [*before, *first, *after, *_READING]

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        source = given(**{name: values.pop(name) for name in (*first, *_READING)})
        command(**values, source=source)

    keyword = inspect.Parameter.KEYWORD_ONLY
    parameters = [inspect.Parameter(name, keyword, default=defaults[name], annotation=hints[name]) for name in names]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {name: hints[name] for name in names}
    return with_options


def _given_data(
    dataset: str | None, data: str | None, train: str | None, valid: str | None, test: str | None, **options: Any
) -> GivenData:
    reading = _reading_of(options)
    given = {"--dataset": dataset, "--data": data, "--train": train}
    named = [f"{option} {value}" for option, value in given.items() if value is not None]
    if len(named) != 1:
        raise ValueError(
            f"{' and '.join(named) or 'no data'}: give one of --data FILE (a log of your own), --train FILE with "
            "--valid or --test (its parts), and a data set that `recgraph data list` shows"
        )
    parts = {name: str(Path(path).absolute()) for name, path in (("valid", valid), ("test", test)) if path is not None}
    if bool(parts) != (train is not None):
        raise ValueError("--train: parts are given together, --train FILE and --valid FILE, --test FILE or both")
    log = data if train is None else train
    if log is not None:
        return GivenData(str(Path(log).absolute()), {**reading, **parts})
    if reading:
        raise ValueError(f"{next(iter(reading))}: how a file of your own is read needs --data FILE")
    assert dataset is not None
    return GivenData(dataset)


def _given_file(path: str, **options: Any) -> GivenFile:
    from recgraph.data.read import Reading

    return GivenFile(path, Reading.of(_reading_of(options)))


def _reading_of(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of :class:`recgraph.data.read.Reading` that are given."""
    given = {name: value for name, value in options.items() if value not in (None, False, [])}
    if "missing_ids" in given:
        given["missing_ids"] = "drop"
    if "quotes" in given:
        given["quotes"] = False
    if "lists" in given:
        given["lists"] = dict(text.partition("=")[::2] for text in given["lists"])
    if "names" in given:
        given["names"] = [name.strip() for name in given["names"].split(",")]
    given |= {name: str(Path(given[name]).absolute()) for name in ("user_features", "item_features") if name in given}
    if given.get("separator") == "\\t":
        given["separator"] = "\t"
    return given
