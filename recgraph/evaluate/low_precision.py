"""Ranking with scores of low precision, and the same lists as without.

The whole catalogue is scored in float16 or bfloat16; the best ``k`` and a margin of further columns are scored again
exactly, and the best ``k`` of those are listed. That this is what float32 would have listed is proven for each user,
from bounds of the rounding errors; where the proof fails (the margin is too small, scores are nearly equal, the type
overflows) the user is ranked in float32.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from recgraph.evaluate.select import NO_SCORE, SeenColumns
from recgraph.evaluate.topk import Catalogue

Precision = Literal["float32", "float16", "bfloat16"]
_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
#: rows of a table converted at a time
_ROWS = 1 << 14


class LowPrecision(Catalogue):
    """A :class:`~recgraph.evaluate.topk.Catalogue` that scans in low precision; items listed are those of float32.

    Scores of the lists are exact inner products rounded to the vectors' type, and may differ from the float32 product
    in the last bits. Products must be accumulated in float32 at least, as they are on the host and, for vectors as
    short as those of recommendation, on accelerators.

    Args:
        n_items, k, tie_seed, candidates, block_items: as for the base.
        item_vectors: [n_items, D].
        precision: ``"float16"`` or ``"bfloat16"``.
        margin: further columns scored again (default: ``2 * k``, at least 64).

    Attributes:
        n_ranked, n_fallbacks: users ranked, and those of them that float32 ranked.

    Raises:
        ValueError: another precision, or a margin below 1.
    """

    def __init__(
        self,
        n_items: int,
        k: int,
        *,
        item_vectors: Tensor,
        precision: Precision,
        tie_seed: int = 0,
        candidates: Tensor | None = None,
        block_items: int | None = None,
        margin: int | None = None,
    ) -> None:
        if precision not in _TYPES:
            raise ValueError(f"precision = {precision!r} must be one of {', '.join(get_args(Precision)[1:])}")
        margin = max(2 * k, 64) if margin is None else margin
        if margin < 1:
            raise ValueError(f"margin = {margin} must be at least 1")
        super().__init__(
            n_items, k, tie_seed=tie_seed, item_vectors=item_vectors, candidates=candidates, block_items=block_items
        )
        self._type = _TYPES[precision]
        self._scan = Catalogue(
            n_items,
            k + margin,
            tie_seed=tie_seed,
            item_vectors=item_vectors,
            candidates=candidates,
            block_items=block_items,
            low=self._type,
        )
        self._table = item_vectors.detach()
        self._item_norm, self._item_error = self._norms(self._table)
        self.n_ranked = self.n_fallbacks = 0

    def in_tiles_of(self, rows: int) -> None:
        """None: it has a catalogue within."""
        return None

    def for_length(self, k: int) -> None:
        """None: how many columns are scored again depends on the length."""
        return None

    def rank_tile(
        self, queries: Tensor, seen: SeenColumns | None, conventions: tuple[str, ...]
    ) -> dict[str, tuple[Tensor, Tensor]]:
        scanned = self._scan.rank_tile(queries.to(self._type), seen, conventions)
        slack = self._slack(queries)
        sure = torch.ones(len(queries), dtype=torch.bool, device=queries.device)
        ranked = {}
        for name, (values, columns) in scanned.items():
            *ranked[name], proven = self._refine(queries, values.double(), columns, slack)
            sure &= proven
        self.n_ranked += len(queries)
        rows = (~sure).nonzero().flatten()
        self.n_fallbacks += rows.numel()
        if rows.numel():
            again = super().rank_tile(queries[rows], None if seen is None else seen.take(rows), conventions)
            for name, lists in again.items():
                for own, exact in zip(ranked[name], lists, strict=True):
                    own[rows] = exact
        return {name: (values, columns) for name, (values, columns) in ranked.items()}

    def _norms(self, table: Tensor) -> tuple[Tensor, Tensor]:
        """[] float64 each: the greatest norm of a row in low precision, and of its difference from the row."""
        norm = error = torch.zeros((), dtype=torch.float64, device=table.device)
        for rows in torch.split(table, _ROWS):
            low, real = rows.to(self._type).double(), rows.double()
            norm = torch.maximum(norm, low.norm(dim=1).max())
            error = torch.maximum(error, (low - real).norm(dim=1).max())
        return norm, error

    def _slack(self, queries: Tensor) -> Tensor:
        """[R] float64: how far a score of low precision may be from the real one, before it is rounded itself."""
        real, low = queries.double(), queries.to(self._type).double()
        norm = low.norm(dim=1)
        inputs = real.norm(dim=1) * self._item_error + (low - real).norm(dim=1) * self._item_norm
        slack: Tensor = inputs + _roundoff(queries.shape[1]) * norm * self._item_norm
        return slack

    def _refine(self, queries: Tensor, low: Tensor, columns: Tensor, slack: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Scores [R, k] and columns [R, k] of the best by exact scores, and whether float32 would list them: [R] bool.

        Args:
            low: [R, K] float64, the scores of low precision, descending.
            columns: [R, K], -1 at the padding.
            slack: [R].
        """
        # in the order of the tie rule, so that the stable sort keeps it
        columns = columns.sort(dim=1).values
        vectors = self._table[self.order[columns.clamp(min=0)]].double()
        query = queries.double()[:, :, None]
        missing = columns < 0
        scores = (vectors @ query).squeeze(2).masked_fill(missing, NO_SCORE)
        error = (vectors.abs() @ query.abs()).squeeze(2) * _roundoff(queries.shape[1])
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        error, columns = error.gather(1, order), columns.gather(1, order)
        k, finfo = self.k, torch.finfo(self._type)
        # what was left out scores at most this, in low precision and then in truth
        cut = low[:, -1]
        limit = cut + cut.abs() * finfo.eps + finfo.tiny + slack
        full = ~missing.any(1)
        beyond = scores[:, k - 1] - error[:, k - 1] > limit + self._widest(query)
        near = scores[:, :k] - scores[:, 1 : k + 1] <= error[:, :k] + error[:, 1 : k + 1]
        near &= columns[:, 1 : k + 1] >= 0
        sure = (beyond | ~full) & ~near.any(1) & low[:, 0].isfinite() & slack.isfinite()
        return scores[:, :k].to(queries.dtype), columns[:, :k], sure

    def _widest(self, query: Tensor) -> Tensor:
        """[R] float64: how far any float32 score may be from the real one."""
        norm = query.squeeze(2).norm(dim=1)
        widest: Tensor = norm * (self._item_norm + self._item_error) * _roundoff(query.shape[1])
        return widest


def _roundoff(width: int) -> float:
    """The relative error of a float32 inner product of so many terms, in whatever order they are summed."""
    unit = torch.finfo(torch.float32).eps / 2
    return width * unit / (1 - width * unit)
