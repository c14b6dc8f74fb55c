"""What answers take of memory: lists are made in parts that fit, and what does not fit is refused beforehand."""

from __future__ import annotations

import logging

from recgraph.evaluate.ranking import GROUP
from recgraph.evaluate.topk import CHUNK
from recgraph.memory import SMALL, Estimate, MemoryLimitError, bound_of, check_room, format_size, resident
from recgraph.models.base import Model

__all__ = ["check_answers", "check_large", "part_users"]

#: of a place of a list: items and scores twice, where they are, the columns of the answer and their copy in its file
_OF_PLACE = 128
#: places of the lists of a part, at most
_PART_PLACES = 1 << 22
_log = logging.getLogger(__name__)


def check_large(n_bytes: int, what: str, way_out: str) -> None:
    """:func:`recgraph.memory.check_room`, where there is enough to look for.

    Raises:
        MemoryLimitError: it does not fit.
    """
    if n_bytes > SMALL:
        check_room(n_bytes, what, way_out)


def check_answers(model: Model, k: int, n_users: int) -> None:
    """Refuse lists for so many users at a time that do not fit.

    Raises:
        MemoryLimitError: they do not; says what does.
    """
    if (fits := part_users(model, k, n_users, n_users, at_once=True)) < n_users:
        raise MemoryLimitError(
            f"{bound_of()}: the lists of {n_users:,} users, k = {k:,}, do not fit at once, those of {fits:,} do; ask "
            "for fewer users or a smaller k, or take them part by part: stream(), --all --out FILE"
        )


def part_users(model: Model, k: int, n_users: int, batch_size: int, at_once: bool = False) -> int:
    """Of how many users the lists are made and kept at a time: at most ``batch_size``, fewer where lists are long.

    It alters no answer.

    Args:
        k: the length of the lists.
        n_users: who are asked for.
        at_once: whether memory alone bounds them.

    Raises:
        MemoryLimitError: not even those of one user fit.
    """
    assert model.space is not None
    n_items = model.space.n_items
    k, catalogue = min(k, n_items), _catalogue_bytes(model, n_items)
    n = max(min(batch_size, n_users) if at_once else min(batch_size, n_users, _PART_PLACES // k), 1)
    if catalogue + n * k * _OF_PLACE <= SMALL or (bound := bound_of()) is None:
        return n
    before = resident()
    n = min(n, (bound.n_bytes - before - catalogue) // (k * _OF_PLACE))
    if n < 1:
        raise MemoryLimitError(
            f"{bound}: lists of {k:,} of {n_items:,} items would take {format_size(catalogue + k * _OF_PLACE)} even "
            f"for one user, beside the {format_size(before)} that are held; ask for a smaller k, or allow more"
        )
    held = {"library, data and model": before, "items": catalogue, f"lists of {n:,} users": n * k * _OF_PLACE}
    table = Estimate(held, {}).table(bound.n_bytes)
    _log.log(logging.INFO if bound.is_given else logging.DEBUG, "predicted memory of the lists:\n%s", table)
    return n


def _catalogue_bytes(model: Model, n_items: int) -> int:
    """Items in their order, and their vectors as the model gives them and as they are ranked; or scores of a group."""
    if not model.has_vectors:
        return 24 * n_items + 8 * GROUP * n_items
    return 24 * n_items + 8 * (n_items + CHUNK) * getattr(model.config, "hidden_dim", 256)
