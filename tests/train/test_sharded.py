"""Tables sharded over two ranks: trained to the weights of tables that are not, stopped, gone on, told where not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recgraph import registry
from recgraph.config import ConfigError
from recgraph.models.base import Space
from recgraph.models.sequence.sasrec import SASRec
from recgraph.ranks import Ranks
from recgraph.train.checkpoint import candidates
from recgraph.train.config import TrainConfig
from recgraph.train.sharding import Sharding
from tests.launched import on_ranks
from tests.train.ranks_cases import N_ITEMS, Result, stopped
from tests.train.sharded_cases import (
    CASES,
    RANKED,
    RESUMED,
    STOPPING,
    all_sharded,
    alone,
    built,
    ranked,
    sharded,
    validated,
    whole,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    case = replace(sharded(RESUMED), training={**sharded(RESUMED).training, **STOPPING}, folder=folder / "one to two")
    stopped(case, rank=0, after=7)
    return folder


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, Any]]:
    return on_ranks(2, all_sharded, folder)


def assert_same(a: Result, b: Result, but: str = "-") -> None:
    assert a.weights.keys() == b.weights.keys()
    for name, value in a.weights.items():
        if name.endswith(but):
            continue
        torch.testing.assert_close(value, b.weights[name], rtol=1e-7, atol=1e-9, msg=name)
    for mine, other in zip(a.history, b.history, strict=True):
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-6)  # read as float32


@pytest.mark.parametrize("name", CASES)
def test_weights_are_those_of_one_process(name: str, two: list[dict[str, Any]]) -> None:
    one = alone(whole(CASES[name]))
    # attention does not depend on the bias of keys: where weight decay makes a step of its rounding, that differs
    but = "qkv.bias" if "weight_decay" in CASES[name].training else "-"
    for rank in two:
        assert_same(rank["whole"][name], one, but)
        assert_same(rank["sharded"][name], one, but)
    for value, other in zip(*(rank["sharded"][name].weights.values() for rank in two), strict=True):
        assert torch.equal(value, other)


def test_each_rank_holds_its_rows_alone(two: list[dict[str, Any]]) -> None:
    size = N_ITEMS + 1
    rows = [(0, 16), (16, size)]
    for rank, own in zip(two, rows, strict=True):
        (table,) = rank["halves"]
        shape = (own[1] - own[0], 8)
        assert table == {
            "name": "item_embedding.weight",
            "global": (size, 8),
            "rows": own,
            "local": shape,
            "at most": True,  # no view of all rows; a shard may have room for as many as the largest
            "moments": [shape, shape],
        }


def test_metrics_are_those_of_one_process(two: list[dict[str, Any]]) -> None:
    alone_values = validated(whole(RESUMED))
    assert len(set(alone_values[:-1])) > 1
    assert alone_values[-1] == max(alone_values)
    for rank in two:
        assert rank["validated"] == alone_values


@pytest.mark.parametrize("name", RANKED)
def test_rankings_over_shards_are_those_of_a_whole_table(name: str, two: list[dict[str, Any]]) -> None:
    expected = ranked(name)
    for rank in two:
        for mine, other in zip(rank["ranked"][name], expected, strict=True):
            assert mine.keys() == other.keys()
            for metric, values in other.items():
                assert np.array_equal(mine[metric], values, equal_nan=True), metric


@pytest.mark.parametrize("name", RANKED)
def test_each_rank_builds_its_rows_of_the_whole_table(name: str, two: list[dict[str, Any]]) -> None:
    for parameter, whole_value in built(name).items():
        of_ranks = [rank["built"][name][parameter] for rank in two]
        if len(of_ranks[0]) < len(whole_value):
            assert torch.equal(torch.cat(of_ranks), whole_value)
        else:
            assert all(torch.equal(value, whole_value) for value in of_ranks), parameter


def test_a_stopped_training_goes_on(two: list[dict[str, Any]]) -> None:
    for rank in two:
        for value, other in zip(rank["resumed"].weights.values(), rank["uninterrupted"].weights.values(), strict=True):
            assert torch.equal(value, other)


def test_goes_on_with_another_number_of_ranks(two: list[dict[str, Any]], folder: Path) -> None:
    case = replace(sharded(RESUMED), training={**sharded(RESUMED).training, **STOPPING})
    expected = two[0]["uninterrupted"]
    newest = candidates(folder / "two to one" / "checkpoints")[0]
    assert len(list(newest.glob("rows-*-of-00002.safetensors"))) == 2
    assert_same(alone(replace(case, folder=folder / "two to one", resumes=True)), expected)
    for rank in two:
        assert_same(rank["one to two"], expected)


class AllItems(SASRec):
    """A model of a user's own, which gives its items as a whole."""

    def encode_items(self) -> Tensor:  # type: ignore[override]
        return F.normalize(super().encode_items())


def test_who_cannot_shard() -> None:
    config = TrainConfig.of({"shard_tables": True})
    model = registry.load("model", "lightgcn")().build(Space(n_users=3, n_items=4))
    with pytest.raises(ValueError, match=r"shard_tables = True: every step of this LightGCN.*use a loss that draws"):
        Sharding(model, config, Ranks(0, 2))
    config = TrainConfig.of({"shard_tables": True, "metric": "ndcg@10"})
    model = AllItems(loss="bpr").build(Space(n_users=3, n_items=4))
    with pytest.raises(ValueError, match=r"AllItems.encode_items gives all items alone.*define encode_items\(index=N"):
        Sharding(model, config, Ranks(0, 2))
    with pytest.raises(ConfigError, match=r"shard_tables.*use table_optimiser = 'lazy_adam'"):
        TrainConfig.of({"shard_tables": True, "table_optimiser": "adam"})
