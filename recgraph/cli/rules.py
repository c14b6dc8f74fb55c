"""Business rules on the command line: a file, and short options beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from recgraph.serve.rules import Rules

_RULES = (
    "Business rules, a TOML or JSON file of: allow, block, allow_for, block_for, boost, max_per, rerank. --block adds "
    "to the file's; --max-per and --boost win over it column by column, other options over the whole rule."
)
_ALLOW = "An item to which recommendations are restricted; may be given many times."
_BLOCK = "An item that is never recommended; may be given many times."
_MAX_PER = "At most N items of a list with the same value in a column of the item features, e.g. genre=2."
_BOOST = (
    "Add a column of the item features, times a weight, to scores (margin=0.5), or a number to the items with a value "
    "(brand:ours=0.3); *= multiplies."
)
_DIVERSITY = "Short for --rerank mmr --rerank-options strength=WEIGHT: from 0, the ranking, to 1."
_RERANK = "Pick lists that differ from the ranking: mmr, dpp or one of your own."
_RERANK_OPTIONS = "A setting of the re-ranker, e.g. strength=0.2; may be given many times."


def _many(name: str, metavar: str, text: str) -> Any:
    return typer.Option(name, metavar=metavar, help=text)


RulesOption = Annotated[Path | None, typer.Option("--rules", metavar="FILE", help=_RULES)]
AllowOption = Annotated[list[str] | None, _many("--allow", "ITEM", _ALLOW)]
BlockOption = Annotated[list[str] | None, _many("--block", "ITEM", _BLOCK)]
MaxPerOption = Annotated[list[str] | None, _many("--max-per", "COLUMN=N", _MAX_PER)]
BoostOption = Annotated[list[str] | None, _many("--boost", "COLUMN[:VALUE]=WEIGHT", _BOOST)]
DiversityOption = Annotated[float | None, typer.Option("--diversity", metavar="WEIGHT", help=_DIVERSITY)]
RerankOption = Annotated[str | None, typer.Option("--rerank", metavar="NAME", help=_RERANK)]
RerankOptionsOption = Annotated[list[str] | None, _many("--rerank-options", "KEY=VALUE", _RERANK_OPTIONS)]


def reranker_given(name: str | None, options: Sequence[str] | None) -> dict[str, Any] | None:
    """The specification of a re-ranker; None: none is named.

    Raises:
        ValueError: options without a name.
    """
    from recgraph.config import parse_settings

    if name is None and options:
        raise ValueError(f"--rerank-options {options[0]!r}: of which re-ranker? Give --rerank NAME")
    return None if name is None else {**parse_settings(options or [], option="--rerank-options"), "name": name}


def rules_of(
    file: Path | None,
    allow: Sequence[str] | None,
    block: Sequence[str] | None,
    max_per: Sequence[str] | None,
    boost: Sequence[str] | None,
    diversity: float | None,
    rerank: Mapping[str, Any] | None,
) -> Rules:
    """The rules of a file and of short options.

    An item that either blocks is blocked, and boosts and limits of columns that no option names stay. Of any other
    rule an option replaces what the file says.

    Raises:
        ValueError: a rule that does not exist or fit; names the option or the file.
    """
    from recgraph.serve.rules import Rules

    given: dict[str, Any] = {
        "allow": allow or None,
        "block": block or None,
        "max_per": {name: _number("--max-per", value) for name, value in _pairs("--max-per", max_per)},
        "boost": [_boost(name, value) for name, value in _pairs("--boost", boost)],
        "diversity": diversity,
        "rerank": rerank,
    }
    # 0 is a weight, empty lists are options that were not given
    given = {name: value for name, value in given.items() if value not in (None, {}, [])}
    base = {} if file is None else Rules.read(file).model_dump(exclude_unset=True)
    if "block" in given:  # texts all, which are read as ids of the log's type
        given["block"] = list(dict.fromkeys([*map(str, base.get("block", ())), *given["block"]]))
    if "max_per" in given:
        given["max_per"] = {**base.get("max_per", {}), **given["max_per"]}
    if "boost" in given:
        columns = {each["column"] for each in given["boost"]}
        given["boost"] = [*(each for each in base.get("boost", ()) if each["column"] not in columns), *given["boost"]]
    if {"diversity", "rerank"} & given.keys():  # one setting with two names
        base = {name: value for name, value in base.items() if name not in ("diversity", "rerank")}
    return Rules.of({**base, **given})


def _pairs(option: str, texts: Sequence[str] | None) -> list[tuple[str, str]]:
    """What stands before and after the last ``=`` of each text."""
    pairs = [text.rpartition("=") for text in texts or ()]
    for name, _, value in pairs:
        if not name or not value:
            raise ValueError(f"{option} {name}{value} is not of the form COLUMN=NUMBER")
    return [(name, value) for name, _, value in pairs]


def _number(option: str, value: str) -> float:
    try:
        return int(value) if value.lstrip("-").isdigit() else float(value)
    except ValueError:
        raise ValueError(f"{option}: {value!r} is no number") from None


def _boost(name: str, value: str) -> dict[str, Any]:
    column, sign, of = name.removesuffix("*").partition(":")
    how = "multiply" if name.endswith("*") else "add"
    made: dict[str, Any] = {"column": column, "weight": _number("--boost", value), "how": how}
    return {**made, "value": of} if sign else made
