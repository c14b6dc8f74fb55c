"""Recommendations for all users, part by part."""

from __future__ import annotations

import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pytest
from test_recommender import log, serve

from recgraph.data.interactions import Interactions
from recgraph.evaluate.ranking import device_of
from recgraph.parallel import Engine
from recgraph.serve.recommender import NoHistoryError


def test_all_users_get_what_each_gets() -> None:
    served = serve(log())
    every = served.recommend(users="all", k=4)
    assert every.equals(served.recommend(users=served.users.values, k=4))
    assert every["who"].unique(maintain_order=True).to_list() == served.users.values.to_list()


@pytest.mark.parametrize(
    "options", [{}, {"rules": {"block_for": {"7": [1, 2]}}}, {"exclude_seen": False, "block": [3]}]
)
def test_parts_are_the_whole(options: dict[str, Any]) -> None:
    served = serve(log())
    parts = list(served.stream(k=4, batch_size=7, **options))
    assert [part["who"].n_unique() for part in parts] == [7, 7, 7, 7, 2]
    assert pl.concat(parts).equals(served.recommend(users="all", k=4, **options))
    some = list(served.stream(users=["5", "1"], k=4, batch_size=1, **options))
    assert pl.concat(some).equals(served.recommend(users=["5", "1"], k=4, **options))
    histories = {"x": [1, 2], "y": [3], "z": [4, 999]}
    new = list(served.stream(histories=histories, k=4, batch_size=2, **options))
    assert pl.concat(new).equals(served.recommend(histories=histories, k=4, **options))


def test_parts_are_of_the_kind_of_the_log() -> None:
    (part,) = serve(log("pandas")).stream(k=2)
    assert isinstance(part, pd.DataFrame)


def test_users_of_whom_nothing_is_known_are_left_out_or_get_popular_items() -> None:
    data = Interactions.from_frame(pl.DataFrame({"user": ["a", "b"], "item": [1, 2]}), user="user", item="item")
    served = serve(data.with_ids(users=["c", "d"]))
    assert served.recommend(users="all", k=1)["user"].to_list() == ["a", "b"]
    assert [part["user"].to_list() for part in served.stream(k=1, batch_size=1)] == [["a"], ["b"], [], []]
    found = served.recommend(users="all", k=1, fallback="popularity")
    assert found["user"].to_list() == ["a", "b", "c", "d"]
    with pytest.raises(NoHistoryError):
        served.recommend(users=["a", "c"])


def test_a_user_called_all_is_named_in_a_list() -> None:
    data = Interactions.from_frame(pl.DataFrame({"user": ["all", "b"], "item": [1, 2]}), user="user", item="item")
    served = serve(data)
    assert served.recommend(users=["all"], k=1)["user"].to_list() == ["all"]
    assert served.recommend(users="all", k=1)["user"].to_list() == ["all", "b"]


@pytest.mark.parametrize("options", [{}, {"rules": {"block_for": {"7": [1, 2]}}}])
def test_an_engine_answers_the_same_parts(options: dict[str, Any], engine: Engine) -> None:
    served = serve(log())
    here, there = (list(served.stream(k=4, batch_size=7, engine=one, **options)) for one in (None, engine))
    assert len(here) == len(there) == 5
    assert all(one.equals(other) for one, other in zip(here, there, strict=True))


def test_ids_that_cannot_be_sent_are_refused(engine: Engine) -> None:
    served = serve(log(user=lambda number: uuid.UUID(int=number), n_users=5))
    with pytest.raises(ValueError, match="UUID objects cannot be sent"):
        list(served.stream(k=1, engine=engine))


def test_a_model_on_another_device_is_not_sent() -> None:
    served = serve(log())
    served.model.to("meta")
    assert device_of(served.model).type == "meta"
    with pytest.raises(ValueError, match=r"an engine ranks on the host: load the recommender there"):
        list(served.stream(k=1, engine=Engine()))


def test_an_engine_counts_once_what_is_not_known(engine: Engine) -> None:
    served = serve(log())
    histories = {"x": [1, 999], "y": [2, 998], "z": [997]}
    found = list(served.stream(histories=histories, batch_size=1, k=2, fallback="popularity", engine=engine))
    alone = serve(log())
    expected = list(alone.stream(histories=histories, batch_size=1, k=2, fallback="popularity"))
    assert pl.concat(found).equals(pl.concat(expected))
    assert served.counters == alone.counters == {"unknown_items": 3, "unknown_users": 0, "fallbacks": 1}


def test_users_and_histories_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="give either users"):
        list(serve(log()).stream(users=["1"], histories={"x": [1]}))
    with pytest.raises(ValueError, match="give either users"):
        list(serve(log()).stream(users=None))
    (found,) = serve(log()).stream(users=None, histories={"x": [1]}, k=3)
    assert found.equals(serve(log()).recommend(histories={"x": [1]}, k=3))


def test_counters_count_a_stream_once() -> None:
    served = serve(log())
    list(served.stream(histories={"x": [1, 999], "y": [2, 998]}, batch_size=1, k=1))
    assert served.counters["unknown_items"] == 2


_MEMORY = """
import resource, sys
import polars as pl, torch
from pathlib import Path
from recgraph.data.row_files import replace_parts
from recgraph.data.ids import IdMap
from recgraph.models.base import Space
from recgraph.models.collaborative.lightgcn import BPRMF
from recgraph.serve.recommender import Recommender
from recgraph.sparse.ragged import Ragged

n_users, n_items, out = int(sys.argv[1]), 2000, Path(sys.argv[2])
model = BPRMF(hidden_dim=16).build(Space(n_users=n_users, n_items=n_items), seed=0)
model.known_users.fill_(True)
lengths = torch.full((n_users,), 5)
values = torch.randint(n_items, (5 * n_users,), generator=torch.Generator().manual_seed(0))
ids = [IdMap(pl.Series("id", range(n), dtype=pl.Int64)) for n in (n_users, n_items)]
served = Recommender(model, *ids, Ragged.from_lengths(values, lengths))
served.recommend(users=[0], k=10)  # what is made once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rows = replace_parts(served.stream(k=10), out, "parquet")
print(rows, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.slow
def test_a_million_users_are_written_in_bounded_memory(tmp_path: Path) -> None:
    """Their 10 million rows are 320 MB as a frame; the parts take less, and no more for ten times the users."""
    command = [sys.executable, "-c", _MEMORY]
    taken = {}
    for n_users in (100_000, 1_000_000):
        path = tmp_path / f"{n_users}.parquet"
        done = subprocess.run([*command, str(n_users), str(path)], capture_output=True, text=True, check=True)
        n_rows, taken[n_users] = map(int, done.stdout.split())
        assert n_rows == 10 * n_users
        assert pl.scan_parquet(path).select(pl.len()).collect().item() == n_rows
    assert taken[1_000_000] < 200, taken
    assert taken[1_000_000] < taken[100_000] + 60, taken
