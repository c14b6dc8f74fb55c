"""A re-ranker joined with what it compares items by: a model's vectors, a log, or item features."""

from __future__ import annotations

from collections.abc import Callable

from recgraph.data.item_columns import ItemColumns
from recgraph.rerank.base import Reranker
from recgraph.rerank.pick import Reranking
from recgraph.rerank.similarity import CoOccurrence, Cosine, Jaccard, Similarity

__all__ = ["bind"]


def bind(
    reranker: Reranker,
    setting: str,
    model: object,
    *,
    by_vectors: Callable[[], Cosine] | None,
    in_common: CoOccurrence | None,
    columns: ItemColumns | None,
    separator: str | None = None,
) -> Reranking:
    """Find the similarity that the settings of a re-ranker name.

    Args:
        setting: what names the re-ranker, for errors.
        model: whose ranking it is, for errors.
        by_vectors: gives the similarity by the model's item vectors; None: it has none.
        in_common: the similarity by users in common; None: the log is not known here.
        columns: of the item features; None: not known here.
        separator: of text columns, where the re-ranker has none of its own.

    Raises:
        ValueError: the similarity cannot be had; says which can.
    """
    config = reranker.config
    similarity: Similarity
    if config.columns:
        if columns is None:
            raise ValueError(f"{setting}: columns = {list(config.columns)}: the item features are not known here")
        own = config.separator or separator
        similarity = Jaccard([columns.codes(name, f"{setting}.columns", own) for name in config.columns])
    elif config.similarity == "co_occurrence":
        if in_common is None:
            raise ValueError(f"{setting}: similarity = 'co_occurrence' needs the log that the model was fitted on")
        similarity = in_common
    elif by_vectors is None:
        raise ValueError(
            f"{setting}: {type(model).__name__} has no item vectors to compare; name item features, "
            "'columns': ['genre'], or rerank with 'similarity': 'co_occurrence'"
        )
    else:
        similarity = by_vectors()
    return Reranking(reranker, similarity)
