"""The options that several commands take: the data (a data set with a card, or files of one's own),
engine, device.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import Parameter
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
#: the default of an option that may be given many times
NO_VALUES: list[str] = []
_ENGINE = "Where pieces run: local; ray; ray://HOST:10001, a Ray cluster.  [default: local]"
_ENGINE_SET = "A setting of the engine, e.g. workers=4 or threads=2; may be given many times."
EngineOption = Annotated[str | None, typer.Option("--engine", metavar="ENGINE", help=_ENGINE)]
EngineSetOption = Annotated[
    list[str], typer.Option("--engine-set", metavar="KEY=VALUE", help=_ENGINE_SET)
]


def given_engine(name: str | None, settings: list[str]) -> Engine | None:
    """The engine of a command; None where it is this process."""
    if not (name or settings):
        return None
    from recgraph.config import parse_settings
    from recgraph.parallel import Engine

    values = {"name": name or "local"}
    engine = Engine.of(parse_settings(settings, values, option="--engine-set"))
    if engine == Engine():
        return None
    return engine


#: loggers that say what is found out of a file
FOUND = (
    "recgraph.data.read",
    "recgraph.data.log",
    "recgraph.data.strategies",
    "recgraph.train.config",
)
_LOG = "A log: csv, tsv, jsonl, parquet or .inter, also packed; a folder or pattern of them."
_NAME = "A data set that `recgraph data list` shows."


def _option(field: str, flag: str, metavar: str, text: str, kind: Any = str | None) -> Parameter:
    option = typer.Option(flag, metavar=metavar, help=text, rich_help_panel="A file of your own")
    return _parameter(field, kind, option)


def _parameter(name: str, kind: Any, declaration: Any) -> Parameter:
    annotation = Annotated[kind, declaration]
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


_PARTS = "In place of --data: the training part, where parts are files of their own."
#: the log, or the parts of a split as files of their own
_DATA = [
    _option("data", "--data", "PATH", f"{_LOG} In place of a data set."),
    _option("train", "--train", "PATH", _PARTS),
    _option("valid", "--valid", "PATH", "The validation part; without it one is drawn from train."),
    _option("test", "--test", "PATH", "The test part, of which training and tuning read nothing."),
]
_KEYS = "How it is read otherwise, e.g. encoding=latin-1, separator=';'; may be given many times."
_FORMAT = "How times are written, e.g. '%d.%m.%Y %H:%M', beside numbers and ISO 8601; may be given many times."
_LIST = "A column of texts that are lists in these files, and what separates them: genres='|'; city= is one value."
_MISSING_IDS = "Leave out rows without a user or an item."
_BAD_TIMES = "Leave out rows without a time that can be read."
_WEIGHT = "Its column of what interactions count in training; never guessed."
_ITEM_FEATURES = "A file of features (titles, genres), one row an item."
#: fields of :class:`recgraph.data.read.Reading`, and ``reading`` for others
_READING = [
    _option("user", "--user", "NAME", "Its column of users; guessed."),
    _option("item", "--item", "NAME", "Its column of items; guessed."),
    _option("timestamp", "--time", "NAME", "Its column of times; guessed. none: without."),
    _option("time_format", "--time-format", "FORMAT", _FORMAT, list[str] | None),
    _option("missing_ids", "--drop-missing-ids", "", _MISSING_IDS, bool | None),
    _option("bad_times", "--drop-bad-times", "", _BAD_TIMES, bool | None),
    _option("rating", "--rating", "NAME", "Its column of ratings; guessed. none: without."),
    _option("weight", "--weight", "NAME", _WEIGHT),
    _option("item_features", "--item-features", "FILE", _ITEM_FEATURES),
    _option("user_features", "--user-features", "FILE", "A file of user features, one row a user."),
    _option("lists", "--list", "NAME=SEPARATOR", _LIST, list[str] | None),
    _option("reading", "--reading", "KEY=VALUE", _KEYS, list[str] | None),
]


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
        if not self.reading:
            return {}
        return {"reading": self.reading}


def takes_data(command: Callable[..., None], *, positional: bool = False) -> Callable[..., None]:
    """Give a command options of data in place of its parameter ``source``; ``positional``: DATASET
    is an argument.
    """
    declaration: Any = typer.Option("--dataset", "-d", metavar="NAME", help=_NAME)
    if positional:
        declaration = typer.Argument(metavar="[DATASET]", help=_NAME)
    dataset = _parameter("dataset", str | None, declaration)
    return _with_options(command, [dataset, *_DATA, *_READING], _source)


def takes_file(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command a path and the options of reading in place of its parameter ``source``."""
    path = _parameter("path", str, typer.Argument(metavar="PATH", help=_LOG))
    options = [path.replace(default=Parameter.empty), *_READING]
    return _with_options(command, options, lambda path, **reading: Source(path, _reading(reading)))


def _with_options(
    command: Callable[..., None], options: list[Parameter], source_of: Callable[..., Source]
) -> Callable[..., None]:
    @functools.wraps(command)
    def with_options(**values: Any) -> None:
        source = source_of(**{option.name: values.pop(option.name) for option in options})
        command(**values, source=source)

    of_command = dict(inspect.signature(command, eval_str=True).parameters)
    del of_command["source"]
    parameters = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in of_command.values()]
    parameters += options
    with_options.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_options


def _source(
    dataset: str | None,
    data: str | None,
    train: str | None,
    valid: str | None,
    test: str | None,
    **reading: Any,
) -> Source:
    sources = [dataset, data, train]
    parts = _absolute({"valid": valid, "test": test})
    options = _reading(reading) | parts
    is_single = sources.count(None) == len(sources) - 1
    needs_parts = train is not None
    if not is_single or bool(parts) != needs_parts or (dataset is not None and options):
        raise ValueError(
            "give one of --data FILE (a log of your own, with options of how it is read), --train FILE with --valid or "
            "--test (its parts), and a data set that `recgraph data list` shows"
        )
    if dataset is not None:
        return Source(dataset)
    (log,) = _absolute({"data": data, "train": train}).values()
    return Source(log, options)


def _absolute(paths: dict[str, str | None]) -> dict[str, str]:
    """The paths that are given, as they are from any folder."""
    return {name: str(Path(path).absolute()) for name, path in paths.items() if path is not None}


def _reading(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of :class:`recgraph.data.read.Reading` that are given."""
    reading = {name: value for name, value in options.items() if value is not None}
    for name in {"missing_ids", "bad_times"} & reading.keys():
        reading[name] = "drop"
    if "lists" in reading:
        reading["lists"] = dict(pair.partition("=")[::2] for pair in reading["lists"])
    files = _absolute({name: options[name] for name in ("user_features", "item_features")})
    pairs = reading.pop("reading", ())
    if pairs:
        from recgraph.config import parse_settings

        reading |= parse_settings(pairs, option="--reading")
    return reading | files
