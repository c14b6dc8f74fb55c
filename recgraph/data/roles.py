"""Which column of a table is the user, the item, the time, the rating: guessed from usual names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence

from recgraph.data.columns import Columns
from recgraph.data.diagnose import usual_separator
from recgraph.data.errors import AmbiguousColumnError, MissingColumnError
from recgraph.data.source import Source
from recgraph.texts import listed

__all__ = ["NO_COLUMN", "candidates_of", "guess_columns"]

#: in place of a column's name: the log has no such column, and none is guessed
NO_COLUMN = "none"
_OPTIONAL = ("timestamp", "rating", "weight")

# Role -> usual names without case, spaces and underscores. The first is the library's own and wins over all others.
_NAMES: dict[str, tuple[str, ...]] = {
    "user": (
        *("userid", "user", "uid", "usr", "visitorid", "visitor", "customerid", "customer", "custid", "clientid"),
        *("client", "memberid", "member", "accountid", "account", "buyerid", "buyer", "shopperid", "shopper"),
        *("reviewerid", "reviewer", "personid", "profileid", "playerid", "listenerid", "readerid"),
    ),
    "item": (
        *("itemid", "item", "iid", "movieid", "movie", "filmid", "film", "productid", "product", "prodid", "asin"),
        *("parentasin", "sku", "skuid", "stockcode", "articleid", "article", "trackid", "track", "songid", "song"),
        *("bookid", "book", "isbn", "businessid", "business", "venueid", "venue", "poiid", "locationid", "videoid"),
        *("video", "contentid", "content", "newsid", "gameid", "game", "appid", "showid", "artistid", "artist"),
        *("recipeid", "restaurantid", "listingid", "offerid", "goodsid", "goods", "anime", "animeid", "adid"),
    ),
    "timestamp": (
        *("timestamp", "time", "ts", "datetime", "date", "eventtime", "eventdate", "eventtimestamp", "createdat"),
        *("created", "unixtime", "unixreviewtime", "reviewtime", "unixtimestamp", "orderdate", "ordertime"),
        *("purchasedate", "purchasetime", "invoicedate", "tdat", "at", "when", "day", "interactiontime", "visittime"),
    ),
    "rating": (
        *("rating", "ratings", "stars", "star", "score", "overall", "userrating", "reviewscore", "ratingvalue"),
        *("starrating",),
    ),
    "weight": (),
}


def guess_columns(names: Sequence[str], given: Mapping[str, str | None], source: Source) -> tuple[Columns, list[str]]:
    """The columns of a log: those that are given, and for the others the ones with usual names.

    Args:
        names: of all columns.
        given: role -> name; None: guess it; ``"none"``: the log has none (of roles that it may lack).
        source: for messages.

    Returns:
        the columns, and the roles that were guessed.

    Raises:
        MissingColumnError: a column that is given is not there, or none looks like the user or the item.
        AmbiguousColumnError: several do; names them and the option.
    """
    chosen: dict[str, str | None] = {}
    for role, name in given.items():
        if name == NO_COLUMN and role in _OPTIONAL and name not in names:
            chosen[role] = None
        elif name is not None:
            if name not in names:
                message = f"there is no column {name!r}; the columns are {listed(names)}"
                raise source.error(MissingColumnError, message)
            chosen[role] = name
    guessed = [role for role in given if role not in chosen]
    free = [name for name in names if name not in chosen.values()]
    for role in guessed:
        chosen[role] = _guess(role, free, names, source)
    return Columns(**chosen), [role for role in guessed if chosen[role] is not None]


def candidates_of(role: str, names: Iterable[str]) -> list[str]:
    """The names that are usual for a role; the library's own alone, where it is among them."""
    usual = _NAMES[role]
    found = {name: _plain(name) for name in names if _plain(name) in usual}
    # "product_id" stands beside "product", which is then the name of it
    found = {name: plain for name, plain in found.items() if f"{plain}id" not in found.values()}
    return [name for name, plain in found.items() if plain == (usual or ("",))[0]] or list(found)


def _guess(role: str, free: Sequence[str], names: Sequence[str], source: Source) -> str | None:
    candidates = candidates_of(role, free)
    option = "time" if role == "timestamp" else role
    if len(candidates) > 1:
        none = f"; or {role}='none' where it is none of them" if role in _OPTIONAL else ""
        raise source.error(
            AmbiguousColumnError,
            f"{listed(candidates)} may each be the {role}: say which, {role}={candidates[0]!r} "
            f"(--{option} {candidates[0]}){none}",
        )
    if not candidates and role not in _OPTIONAL:
        hint = ""
        if _looks_like_values(names):
            hint = " If the file has no header line, give their names in their order: names=[...] (--names a,b,c)."
        elif len(names) == 1 and (mark := usual_separator(names[0])):
            hint = f" It looks separated by {mark!r}: separator={mark!r} (--separator {shlex.quote(mark)})."
        raise source.error(
            MissingColumnError,
            f"no column looks like the {role}; say which is, {role}=... (--{option} NAME). The columns are "
            f"{listed(names)}.{hint}",
        )
    return candidates[0] if candidates else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _looks_like_values(names: Iterable[str]) -> bool:
    return any(re.fullmatch(r"-?[\d.]+", name.strip()) for name in names)
