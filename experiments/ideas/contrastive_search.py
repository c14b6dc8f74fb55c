"""Contrastive search as a re-ranker: ``recgraph --import experiments/ideas/contrastive_search.py
...``.

    argmax over the pool of (1 - strength) p_i - strength max_j similarity_ij

p is the model's probability, j are the items picked before: maximal marginal relevance with another
scale of relevance. A probability says how sure the model is: where one item stands out for a user,
more of the ranking stays. It needs scores that are log-probabilities up to a constant, as softmax
losses train them.

Source: Su and Collier, Contrastive Search Is What You Need for Neural Text Generation, TMLR 2023,
whose alpha is ``strength`` and whose k is ``pool``. Departures: p is the softmax over the pool, not
over all items; j runs over the list alone, where text has the whole context. What does not carry
over from text: tokens repeat and change the next distribution, items of a list do neither, and the
similarity is of item vectors, not of states in a context.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

import recgraph as rg
from recgraph.evaluate.rerank import MMR, RerankerConfig


class ContrastiveSearchConfig(RerankerConfig):
    relevance: Annotated[
        Literal["min_max", "probability"], Field(description="of scores; min_max is MMR")
    ] = "probability"


@rg.register("reranker")
class ContrastiveSearch(MMR):
    """See the module."""

    Config = ContrastiveSearchConfig
