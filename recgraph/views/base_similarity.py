"""What the views that put in similar items share: the table of similar items, learned from the training
part."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.data.part import Part
from recgraph.sparse.co_occurrence import distinct, neighbours
from recgraph.views._rows import uniform_up_to
from recgraph.views.base import SequenceView, ViewConfig


class SimilarityConfig(ViewConfig):
    n_similar: Annotated[
        int,
        Field(ge=1, description="a similar item is drawn from the n_similar most similar ones"),
        Search(low=1, high=20, log=True),
    ] = 1


class SimilarityView(SequenceView):
    """Base of views that put in similar items; :meth:`setup` must have seen the training part.

    Items are as similar as their users: ``sum over common users of 1 / log(1 + n_u) / sqrt(n_i n_j)``, with
    n_u the items of a user and n_i the users of an item (ItemCF-IUF, the memory-based similarity of CoSeRec:
    Liu et al., Contrastive Self-supervised Sequential Recommendation with Robust Augmentation, 2021, section
    3.2).

    Departures: CoSeRec later also compares learned item embeddings, which these views know nothing of; it
        always
    takes the most similar item (``n_similar=1``); an item without a similar one is left alone, where the
    published code puts in an arbitrary item.
    """

    Config = SimilarityConfig

    def __init__(self, config: SimilarityConfig | None = None, /, **settings: object) -> None:
        super().__init__(config, **settings)
        self._similar: Tensor | None = None

    def setup(self, train: Part) -> None:
        """Compute the similar items of each item."""
        rows = distinct(train.items, train.n_items)
        per_user = 1 / torch.log1p(rows.lengths.clamp(min=1).to(torch.float64))
        index, similarity = neighbours(rows, train.n_items, self.config.n_similar, row_weights=per_user)
        # by token: row 0, the masked item, has no similar items; neither have unused places
        of_items = torch.where(similarity > 0, index + 1, 0)
        self._similar = torch.cat([of_items.new_zeros(1, of_items.shape[1]), of_items])

    def similar(self, tokens: Tensor, generator: torch.Generator) -> Tensor:
        """A similar item for each token, uniform among its most similar ones.

        Args:
            tokens: [K] int64.

        Returns:
            [K] int64 tokens; 0 for a token that has no similar item.

        Raises:
            ValueError: :meth:`setup` has not been called.
        """
        if self._similar is None:
            raise ValueError(f"{type(self).__name__} has no similar items yet; call setup(train) before")
        self._similar = self._similar.to(tokens.device)
        of_tokens = self._similar[tokens]
        known = (of_tokens > 0).sum(1)
        chosen = uniform_up_to((known - 1).clamp(min=0), generator)
        return of_tokens.gather(1, chosen[:, None]).squeeze(1)
