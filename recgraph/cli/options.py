"""The options that several commands take: the data (a data set with a card, or files of one's own),
engine, device.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from recgraph.parallel import Engine

RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="A folder that `recgraph train` wrote, or a bundle.")
]
DeviceOption = Annotated[
    str | None, typer.Option(help="Where to compute, e.g. cuda:1; else cuda or cpu.")
]
_ENGINE = "Where pieces run: local; ray; ray://HOST:10001, a Ray cluster.  [default: local]"
_ENGINE_SET = "A setting of the engine, e.g. workers=4 or threads=2; may be given many times."
EngineOption = Annotated[str | None, typer.Option("--engine", metavar="ENGINE", help=_ENGINE)]
EngineSetOption = Annotated[
    list[str] | None, typer.Option("--engine-set", metavar="KEY=VALUE", help=_ENGINE_SET)
]


def given_engine(name: str | None, settings: list[str] | None) -> Engine | None:
    """The engine of a command; None where it is this process."""
    if not (name or settings):
        return None
    from recgraph.config import parse_settings
    from recgraph.parallel import Engine

    engine = Engine.of(
        {"name": name or "local", **parse_settings(settings or [], option="--engine-set")}
    )
    return None if engine == Engine() else engine


#: loggers that say what is found out of a file
FOUND = (
    "recgraph.data.read",
    "recgraph.data.log",
    "recgraph.data.strategies",
    "recgraph.train.config",
)
_LOG = "A log: csv, tsv, jsonl, parquet or .inter, also packed; a folder or pattern of them."
_NAME = "A data set that `recgraph data list` shows."


def _option(name: str, metavar: str, text: str, kind: Any = str | None) -> Any:
    return Annotated[
        kind, typer.Option(name, metavar=metavar, help=text, rich_help_panel="A file of your own")
    ]


#: the log, or the parts of a split as files of their own
_DATA = {
    "data": _option("--data", "PATH", f"{_LOG} In place of a data set."),
    "train": _option(
        "--train",
        "PATH",
        "In place of --data: the training part, where parts are files of their own.",
    ),
    "valid": _option("--valid", "PATH", "The validation part; without it one is drawn from train."),
    "test": _option("--test", "PATH", "The test part, of which training and tuning read nothing."),
}
_KEYS = "How it is read otherwise, e.g. encoding=latin-1, separator=';'; may be given many times."
_FORMAT = "How times are written, e.g. '%d.%m.%Y %H:%M', beside numbers and ISO 8601; may be given many times."
_LIST = "A column of texts that are lists in these files, and what separates them: genres='|'; city= is one value."
#: fields of :class:`recgraph.data.read.Reading`, and ``reading`` for others
_READING = {
    "user": _option("--user", "NAME", "Its column of users; guessed."),
    "item": _option("--item", "NAME", "Its column of items; guessed."),
    "timestamp": _option("--time", "NAME", "Its column of times; guessed. none: without."),
    "time_format": _option("--time-format", "FORMAT", _FORMAT, list[str] | None),
    "missing_ids": _option(
        "--drop-missing-ids", "", "Leave out rows without a user or an item.", bool | None
    ),
    "bad_times": _option(
        "--drop-bad-times", "", "Leave out rows without a time that can be read.", bool | None
    ),
    "rating": _option("--rating", "NAME", "Its column of ratings; guessed. none: without."),
    "weight": _option(
        "--weight", "NAME", "Its column of what interactions count in training; never guessed."
    ),
    "item_features": _option(
        "--item-features", "FILE", "A file of features (titles, genres), one row an item."
    ),
    "user_features": _option("--user-features", "FILE", "A file of user features, one row a user."),
    "lists": _option("--list", "NAME=SEPARATOR", _LIST, list[str] | None),
    "reading": _option("--reading", "KEY=VALUE", _KEYS, list[str] | None),
}


@dataclass(frozen=True)
class Source:
    """The data that a command is given.

    Attributes:
        dataset: the name of a card, the path of one, or the path of a log.
        reading: how the log is read, as far as it is given: fields of
            :class:`recgraph.data.read.Reading`.
    """

    dataset: str
    reading: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """What it adds to the settings of a run."""
        return {"reading": self.reading} if self.reading else {}


def takes_data(command: Callable[..., None], *, positional: bool = False) -> Callable[..., None]:
    """Give a command options of data in place of its parameter ``source``; ``positional``: DATASET
    is an argument.
    """
    option = typer.Option("--dataset", "-d", metavar="NAME", help=_NAME)
    dataset = typer.Argument(metavar="[DATASET]", help=_NAME) if positional else option
    return _with_options(
        command, {"dataset": Annotated[str | None, dataset], **_DATA, **_READING}, _source
    )


def takes_file(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a path and the options of reading in place of its parameter ``source``."""
    path = Annotated[str, typer.Argument(metavar="PATH", help=_LOG)]
    return _with_options(
        command, {"path": path, **_READING}, lambda path, **given: Source(path, _reading(given))
    )


def _with_options(
    command: Callable[..., None], options: dict[str, Any], source_of: Callable[..., Source]
) -> Callable[..., None]:
    own, keyword = (
        inspect.signature(command, eval_str=True).parameters,
        inspect.Parameter.KEYWORD_ONLY,
    )
    more = [
        inspect.Parameter(
            name,
            keyword,
            default=inspect.Parameter.empty if hint.__origin__ is str else None,
            annotation=hint,
        )
        for name, hint in options.items()
    ]

    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        source = source_of(**{name: values.pop(name) for name in options})
        command(**values, source=source)

    parameters = [
        *(each.replace(kind=keyword) for each in own.values() if each.name != "source"),
        *more,
    ]
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_options


def _source(
    dataset: str | None,
    data: str | None,
    train: str | None,
    valid: str | None,
    test: str | None,
    **given: Any,
) -> Source:
    reading = _reading(given)
    named = [value for value in (dataset, data, train) if value is not None]
    parts = {
        name: str(Path(path).absolute())
        for name, path in (("valid", valid), ("test", test))
        if path is not None
    }
    if len(named) != 1 or bool(parts) != (train is not None) or (dataset is not None and reading):
        raise ValueError(
            "give one of --data FILE (a log of your own, with options of how it is read), --train FILE with --valid or "
            f"--test (its parts), and a data set that `recgraph data list` shows, not {named + list(parts.values())}"
        )
    if dataset is not None:
        return Source(dataset)
    return Source(str(Path(named[0]).absolute()), {**reading, **parts})


def _reading(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of :class:`recgraph.data.read.Reading` that are given."""
    given = {name: value for name, value in options.items() if value is not None}
    given |= {name: "drop" for name in ("missing_ids", "bad_times") if name in given}
    if "lists" in given:
        given["lists"] = dict(pair.partition("=")[::2] for pair in given["lists"])
    if pairs := given.pop("reading", None):
        from recgraph.config import parse_settings

        given |= parse_settings(pairs, option="--reading")
    return given | {
        name: str(Path(given[name]).absolute())
        for name in ("user_features", "item_features")
        if name in given
    }
