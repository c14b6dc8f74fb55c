"""Counts and sums of more values than a floating type can add one by one, as of 1e8 interactions.

Half precision stops counting ones at 256 (bfloat16) and 2048 (float16), float32 at 2^24; so what would go wrong with
1e8 values in float32 is seen with hundreds in half precision, or where one great value is followed by many small ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from recgraph.augment.latent import attend_rows
from recgraph.contrast import clustering, regularisers
from recgraph.contrast.blockwise import Candidates, contrast, contrast_drawn
from recgraph.contrast.clustering import Clustering, concentration
from recgraph.contrast.regularisers import Uniformity
from recgraph.evaluate import topk
from recgraph.evaluate.topk import _count, _Pairs
from recgraph.sparse import blocks
from recgraph.sparse.blocks import group_sizes, group_sums, row_blocks
from recgraph.sparse.csr import Csr
from recgraph.sparse.device import accelerator_path
from recgraph.sparse.operators import row_shares
from recgraph.sparse.ragged import Ragged

#: the first loss of a sum, and one that float32 would no longer add to it
GREAT, SMALL, N = 3e7, math.log(2), 512
EXPECTED = (GREAT + (N - 1) * SMALL) / N


@pytest.fixture(params=["host", "accelerator"])
def path(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.param == "host":
        yield
    else:
        with accelerator_path():
            yield


@pytest.mark.usefixtures("path")
def test_sizes_are_counted_beyond_the_integers_of_float32() -> None:
    n = 2**24 + 4
    sizes = group_sizes(torch.zeros(1, dtype=torch.int64).expand(n), 2)
    assert sizes.tolist() == [n, 0]


def test_sums_by_group_do_not_stand_still() -> None:
    n = 2**24 + 2**20
    found = group_sums(torch.ones(1).expand(n), torch.zeros(1, dtype=torch.int64).expand(n), 2)
    assert found.dtype == torch.float32
    assert found.tolist() == [n, 0]


@pytest.mark.parametrize("shape", [(1000,), (1000, 3)])
def test_sums_by_group_over_several_stretches(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=draw, dtype=torch.float64)
    groups = torch.randint(0, 7, (1000,), generator=draw)
    whole = group_sums(values, groups, 8)
    for group in range(8):
        torch.testing.assert_close(whole[group], values[groups == group].sum(0))
    monkeypatch.setattr(blocks, "_SUMMED", 64)
    torch.testing.assert_close(group_sums(values, groups, 8), whole)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stretches that half precision can add."""
    monkeypatch.setattr(blocks, "_SUMMED", 32)


@pytest.mark.usefixtures("short")
def test_centroids_are_means_of_all_members() -> None:
    x = torch.cat([torch.ones(300, 1), torch.full((300, 1), 3.0)]).bfloat16()
    assert clustering._restart(x, x[:1], 1).centroids.tolist() == [[2]]
    assert clustering._all_at_once(x, x[None, :1], 1).centroids.tolist() == [[2]]


@pytest.mark.usefixtures("short")
def test_concentrations_are_means_over_all_members(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.cat([torch.full((400, 1), 0.25), torch.full((400, 1), 4.0), torch.ones(100, 1)]).bfloat16()
    members = torch.tensor([0] * 800 + [1] * 100)
    found = Clustering(members, torch.ones(2, 1).bfloat16(), torch.zeros(()))
    exact = concentration(x, found, 0.5)
    monkeypatch.setattr(clustering, "work_type", lambda *_: torch.bfloat16)
    with torch.autocast("cpu", enabled=False):
        monkeypatch.setattr(torch, "quantile", lambda phi, q: phi.float().quantile(q).to(phi.dtype))
        torch.testing.assert_close(concentration(x, found, 0.5).float(), exact.float(), rtol=0.02, atol=0)


def contrasted() -> tuple[Tensor, Tensor, Tensor]:
    """Anchors, candidates and positives: of the first anchor the loss is great, of all others small."""
    x = torch.zeros(N, 1)
    x[0] = GREAT
    return x.requires_grad_(), torch.tensor([[0.0], [1.0]]), torch.zeros(N, dtype=torch.int64)


def test_a_contrast_over_many_blocks_loses_no_anchor() -> None:
    x, y, positives = contrasted()
    loss, counted = contrast(x, y, Candidates(positives), block_rows=1)
    assert (loss.dtype, int(counted)) == (torch.float32, 0)
    assert loss.item() == pytest.approx(EXPECTED, rel=1e-6)
    loss.backward()
    assert x.grad is not None
    assert x.grad[1:].unique().item() == pytest.approx(0.5 / N)


def test_a_contrast_with_drawn_candidates_over_many_blocks_loses_no_anchor() -> None:
    x, y, positives = contrasted()
    loss, _ = contrast_drawn(x, y, torch.arange(2), Candidates(positives), block_rows=1)
    assert loss.item() == pytest.approx(EXPECTED, rel=1e-6)


def test_uniformity_over_many_blocks_loses_no_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.ones(600, 1).bfloat16()
    monkeypatch.setattr(regularisers, "work_type", lambda *_: torch.bfloat16)
    monkeypatch.setattr(regularisers, "row_blocks", lambda n, m, like: row_blocks(n, m, like, 1))
    assert float(Uniformity()(x, x)) == pytest.approx(0, abs=0.1)  # all are at one place


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sparse_sums_of_half_precision(dtype: torch.dtype) -> None:
    n = 4096
    rows, columns = torch.zeros(n, dtype=torch.int64), torch.zeros(n, dtype=torch.int64)
    one_place = Csr.from_coo(rows, columns, torch.ones(n, dtype=dtype), shape=(1, 1))
    for found in (one_place.row_sums(), one_place.coalesce().values(), one_place.diagonal()):
        assert found.dtype == dtype
        assert found.item() == n


def test_entries_at_one_place_are_counted_as_integers(monkeypatch: pytest.MonkeyPatch) -> None:
    """What bfloat16 cannot add stands for what float32 cannot: 2^24 entries and more."""
    zeros = torch.zeros(512, dtype=torch.int64)
    one_place = Csr.from_coo(zeros, zeros, shape=(1, 1))
    monkeypatch.setattr(torch, "get_default_dtype", lambda: torch.bfloat16)
    monkeypatch.setattr(Csr, "values", lambda self: torch.ones(self.nnz, dtype=torch.bfloat16))
    assert float(one_place.coalesce().weights) == 512  # type: ignore[arg-type]


def test_shares_of_features_whose_sum_half_precision_does_not_hold() -> None:
    shares = row_shares(torch.full((1, 4), 30000.0, dtype=torch.float16), "features", "")
    assert isinstance(shares, Tensor)
    assert shares.dtype == torch.float16
    assert shares.tolist() == [[0.25] * 4]


def test_attention_over_a_long_row_in_half_precision() -> None:
    n = 1000
    keys = Ragged.from_lengths(torch.zeros(n, 2).bfloat16(), torch.tensor([n]))
    values = torch.cat([torch.zeros(n // 2, 2), torch.ones(n // 2, 2)]).bfloat16()
    found = attend_rows(torch.ones(1, 2).bfloat16(), keys, values)
    torch.testing.assert_close(found, torch.full((1, 2), 0.5))


def test_ranks_beyond_the_integers_of_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products of float16 stand for those of float32, which are exact up to 2^24 columns."""
    monkeypatch.setattr(topk, "_EXACT", 100)
    real = torch.Tensor.__matmul__
    rounded = lambda a, b: real(a, b).bfloat16()  # noqa: E731
    monkeypatch.setattr(torch.Tensor, "__matmul__", rounded)
    block = torch.cat([torch.ones(1, 901), torch.zeros(1, 333)], 1)
    pairs = _Pairs(torch.tensor([0]), torch.tensor([901]), torch.tensor([0.0]))
    above, equal, before = _count(block, torch.arange(1234), pairs, torch.tensor([True])).tolist()
    assert (above, equal, before) == ([901], [333], [0])
