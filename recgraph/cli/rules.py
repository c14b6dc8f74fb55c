"""Business rules on the command line: a file, and short options beside it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recgraph.cli.output import note

if TYPE_CHECKING:
    from recgraph.serve.rules import Rules

__all__ = [
    "AllowOption",
    "BlockOption",
    "BoostOption",
    "DiversityOption",
    "MaxPerOption",
    "RerankOption",
    "RerankOptionsOption",
    "RulesOption",
    "reranker_given",
    "rules_of",
]

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

RulesOption = Annotated[Path | None, typer.Option("--rules", metavar="FILE", help=_RULES)]
AllowOption = Annotated[list[str] | None, typer.Option("--allow", metavar="ITEM", help=_ALLOW)]
BlockOption = Annotated[list[str] | None, typer.Option("--block", metavar="ITEM", help=_BLOCK)]
MaxPerOption = Annotated[list[str] | None, typer.Option("--max-per", metavar="COLUMN=N", help=_MAX_PER)]
BoostOption = Annotated[list[str] | None, typer.Option("--boost", metavar="COLUMN[:VALUE]=WEIGHT", help=_BOOST)]
DiversityOption = Annotated[float | None, typer.Option("--diversity", metavar="WEIGHT", help=_DIVERSITY)]
RerankOption = Annotated[str | None, typer.Option("--rerank", metavar="NAME", help=_RERANK)]
RerankOptionsOption = Annotated[
    list[str] | None, typer.Option("--rerank-options", metavar="KEY=VALUE", help=_RERANK_OPTIONS)
]


def reranker_given(name: str | None, options: Sequence[str] | None) -> dict[str, Any] | None:
    """The specification of a re-ranker; None: none is named.

    Raises:
        ValueError: options without a name.
    """
    from recgraph.setting_texts import parse_settings

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
    rerank: Mapping[str, Any] | None = None,
    replaced: Collection[str] = (),
) -> Rules:
    """The rules of a file and of short options.

    An item that either blocks is blocked, and boosts and limits of columns that no option names stay. Of any other
    rule, or column, an option replaces what the file says, and a note names it.

    Args:
        replaced: rules of the file that options replace which are no part of the rules.

    Raises:
        ValueError: a rule that does not exist or fit; names the option or the file.
    """
    from recgraph.serve.rules import Rules

    given: dict[str, Any] = {
        "allow": allow or None,
        "block": block or None,
        "max_per": {name: _number("--max-per", text, value) for text, name, value in _pairs("--max-per", max_per)},
        "boost": [_boost(text, name, value) for text, name, value in _pairs("--boost", boost)],
        "diversity": diversity,
        "rerank": rerank,
    }
    # 0 is a weight, empty lists are options that were not given
    given = {name: value for name, value in given.items() if value not in (None, {}, [])}
    if file is None:
        return Rules.of(given)
    return Rules.of(_beside(Rules.read(file), given, replaced, file))


def _beside(rules: Rules, given: Mapping[str, Any], replaced: Collection[str], file: Path) -> dict[str, Any]:
    """The settings of a file's rules with what options say."""
    base, made = rules.model_dump(exclude_unset=True), dict(given)
    if "block" in given:
        made["block"] = _either(base.pop("block", ()), given["block"])
    if "max_per" in given:
        made["max_per"] = {**base.get("max_per", {}), **given["max_per"]}
        _note(
            "--max-per",
            [f"max_per of column {name!r}" for name in base.pop("max_per", ()) if name in given["max_per"]],
            file,
        )
    if "boost" in given:
        of_options = {each["column"] for each in given["boost"]}
        of_file = base.pop("boost", ())
        made["boost"] = [*(each for each in of_file if each["column"] not in of_options), *given["boost"]]
        names = dict.fromkeys(each["column"] for each in of_file if each["column"] in of_options)
        _note("--boost", [f"boost of column {name!r}" for name in names], file)
    own = {name: f"--{name.replace('_', '-')}" for name in (*given, *replaced)}
    for name in ("diversity", "rerank"):
        if name in given:  # one setting with two names
            own |= {"diversity": f"--{name}", "rerank": f"--{name}"}
    for name in [name for name in base if name in own]:
        _note(own[name], [name] if base.pop(name) not in (None, (), {}) else [], file)
    return {**base, **made}


def _either(of_file: Sequence[Any], of_options: Sequence[str]) -> list[Any]:
    """The ids of a file and of options, which are texts: as texts all, which are read as ids of the log's type."""
    return list(dict.fromkeys([*map(str, of_file), *of_options]))


def _note(option: str, rules: Sequence[str], file: Path) -> None:
    """Say which rules of a file an option replaces."""
    if rules:
        note(f"{option} replaces {' and '.join(rules)} in {file}")


def _pairs(option: str, texts: Sequence[str] | None) -> list[tuple[str, str, str]]:
    """Each text with what stands before and after its last ``=``."""
    pairs = []
    for text in texts or ():
        name, sign, value = text.rpartition("=")
        if not sign or not name or not value:
            raise ValueError(f"{option} {text!r} is not of the form COLUMN=NUMBER")
        pairs.append((text, name, value))
    return pairs


def _number(option: str, text: str, value: str) -> float:
    try:
        return int(value) if value.lstrip("-").isdigit() else float(value)
    except ValueError:
        raise ValueError(f"{option} {text!r}: {value!r} is no number") from None


def _boost(text: str, name: str, value: str) -> dict[str, Any]:
    how = "multiply" if name.endswith("*") else "add"
    column, sign, of = name.removesuffix("*").partition(":")
    made: dict[str, Any] = {"column": column, "weight": _number("--boost", text, value), "how": how}
    return {**made, "value": of} if sign else made
