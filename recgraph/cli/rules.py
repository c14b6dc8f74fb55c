"""Business rules on the command line: a file, and short options that win over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from recgraph.serve.rules import Rules

__all__ = [
    "AllowOption",
    "BlockOption",
    "BoostOption",
    "DiversityOption",
    "MaxPerOption",
    "RulesOption",
    "rules_of",
]

_RULES = "Business rules, a TOML or JSON file of: allow, block, allow_for, block_for, boost, max_per, diversity."
_ALLOW = "An item to which recommendations are restricted; may be given many times."
_BLOCK = "An item that is never recommended; may be given many times."
_MAX_PER = "At most N items of a list with the same value in a column of the item features, e.g. genre=2."
_BOOST = (
    "Add a column of the item features, times a weight, to scores (margin=0.5), or a number to the items with a value "
    "(brand:ours=0.3); *= multiplies."
)
_DIVERSITY = "From 0 (the ranking) to 1: how much the items of a list are to differ."

RulesOption = Annotated[Path | None, typer.Option("--rules", metavar="FILE", help=_RULES)]
AllowOption = Annotated[list[str] | None, typer.Option("--allow", metavar="ITEM", help=_ALLOW)]
BlockOption = Annotated[list[str] | None, typer.Option("--block", metavar="ITEM", help=_BLOCK)]
MaxPerOption = Annotated[list[str] | None, typer.Option("--max-per", metavar="COLUMN=N", help=_MAX_PER)]
BoostOption = Annotated[list[str] | None, typer.Option("--boost", metavar="COLUMN[:VALUE]=WEIGHT", help=_BOOST)]
DiversityOption = Annotated[float | None, typer.Option("--diversity", metavar="WEIGHT", help=_DIVERSITY)]


def rules_of(
    file: Path | None,
    allow: Sequence[str] | None,
    block: Sequence[str] | None,
    max_per: Sequence[str] | None,
    boost: Sequence[str] | None,
    diversity: float | None,
) -> Rules:
    """The rules of a file; what a short option says replaces what the file says.

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
    }
    base = {} if file is None else Rules.read(file).model_dump(exclude_unset=True)
    # 0 is a weight, empty lists are options that were not given
    return Rules.of({**base, **{name: value for name, value in given.items() if value not in (None, {}, [])}})


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
