"""What answers take of memory: lists are made in parts that fit, and what does not fit is refused beforehand."""

from __future__ import annotations

import logging

from recgraph.evaluate.ranking import GROUP
from recgraph.evaluate.topk import CHUNK
from recgraph.memory import (
    SMALL,
    Estimate,
    MemoryLimitError,
    bound_of,
    check_estimate,
    check_room,
    format_size,
    resident,
    tensor_bytes,
)
from recgraph.models.base import Model

__all__ = ["CELLS", "check_answers", "check_export", "check_large", "check_service", "part_users", "vector_width"]

#: of a place of a list: items and scores twice, where they are, the columns of the answer and their copy in its file
_OF_PLACE = 128
#: places of the lists of a part, at most
_PART_PLACES = 1 << 22
#: what the exporters of torch and ONNX are, once they are imported and have traced a graph
_EXPORTERS = 176 * 2**20
#: of an id that is written: as Python's, in a list, as a text of JSON, and in a column
_OF_ID = 100
#: of a place of a list that a service answers with: item and score as Python's and as text, in the parts of the body
_OF_ANSWER = 400
#: what a service imports and begins to use with its first answers
_SERVICE = 48 * 2**20
#: similarities by users that are held at a time
CELLS = 1 << 22
#: of an interaction, where items are compared by their users: its rows both ways; and while these are made
_OF_SEEN, _OF_COUNTING = 32, 40
#: of a user's item that is counted, and all of them that are counted at a time
_OF_PAIR, _PAIRS = 48, 96 * 2**20
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
    return 24 * n_items + 8 * (n_items + CHUNK) * vector_width(model)


def check_export(model: Model, n_users: int | None) -> None:
    """Refuse an export that does not fit.

    Args:
        n_users: whose vectors are a table; None: the graph is the model, and reads histories.

    Raises:
        MemoryLimitError: it does not.
    """
    assert model.space is not None
    n_items, width = model.space.n_items, vector_width(model) if model.has_vectors else 0
    vectors = 4 * n_items * width
    graph = vectors if n_users is not None else sum(tensor_bytes(model))
    held = {
        "library, data and model": resident(),
        "exporters": _EXPORTERS,
        "item vectors": vectors,
        "ids": _OF_ID * (n_items + (n_users or 0)),
    }
    # the bytes of a file are made before they are written; vectors of users are made in groups, joined and put in order
    moments = {"the graph": 2 * graph, "table of items": 2 * vectors, "table of users": 3 * 4 * (n_users or 0) * width}
    what = f"the export of {type(model).__name__}"
    check_estimate(Estimate(held, moments), what, lambda _: "export where there is more memory", _log)


def check_service(model: Model, n_ids: int, n_seen: int, n_users: int, k: int, threads: int) -> None:
    """Refuse a service that does not fit, when its bundle is in memory. Requests that wait are not counted.

    Args:
        n_ids: of users and items, which are looked up by their text.
        n_seen: interactions, by which items are compared.
        n_users: who are answered together, at most.
        k: length of their lists, at most.
        threads: batches that are answered at the same time.

    Raises:
        MemoryLimitError: it does not; says which ``k`` does.
    """
    assert model.space is not None
    n_items = model.space.n_items
    held = {
        "library and bundle": resident(),
        "libraries at work": _SERVICE,
        # a model without vectors gives each thread scores of its own
        "items": _catalogue_bytes(model, n_items) * (1 if model.has_vectors else threads),
        "ids by their text": _OF_ID * n_ids,
        "items by their users": _OF_SEEN * n_seen,
        "directions of items": 8 * (n_items + CHUNK) * vector_width(model) if model.has_vectors else 0,
    }
    of_length = _OF_ANSWER * n_users * threads
    moments = {
        "the largest answers": of_length * min(k, n_items),
        "users of items": _OF_COUNTING * n_seen * threads,
        "items that are compared": threads
        * (min(_OF_PAIR * n_users * n_seen, _PAIRS) + 24 * min(n_users * n_items, CELLS)),
    }

    def what_fits(left: int) -> str:
        if left >= of_length and left >= max(size for name, size in moments.items() if name != "the largest answers"):
            return f"what fits: lists of {left // of_length} (--max-k)"
        return "serve it where there is more memory, or with fewer --threads"

    check_estimate(Estimate(held, moments), f"the service of {type(model).__name__}", what_fits, _log)


def vector_width(model: Model) -> int:
    """The width of a model's vectors; of one that does not say, a width that is seldom surpassed."""
    return int(getattr(model.config, "hidden_dim", 256))
