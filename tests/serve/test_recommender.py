"""Recommendations, similar items and vectors in the user's own ids, from users and from
histories.
"""

from __future__ import annotations

import datetime
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from refusing import refused
from same_lists import assert_same_lists
from small_serving import ServedTowers, log, recommender, serve

from recgraph.data.batches import Query
from recgraph.data.split import Interactions
from recgraph.evaluate.ranking import catalogue_for, evaluating
from recgraph.files import DataError
from recgraph.models.base import Model, Space
from recgraph.models.closed_form.linear import EASE
from recgraph.models.collaborative.lightgcn import LightGCN
from recgraph.models.sequence.sasrec import SASRec
from recgraph.parallel import Engine
from recgraph.serve import lists
from recgraph.serve.ann import AnnIndex
from recgraph.serve.recommender import NoHistoryError, Recommender
from recgraph.sparse.ragged import Ragged


def expected(served: Recommender, user_row: int, k: int, barred: set[int]) -> list[Any]:
    with evaluating(served.model):
        scores = served.model.score(
            Query(torch.tensor([user_row]), served.seen.take(torch.tensor([user_row])))
        )[0]
    order = [item for item in scores.argsort(descending=True).tolist() if item not in barred][:k]
    return served.items.ids(order).to_list()


@pytest.mark.parametrize("make", [ServedTowers, EASE])
def test_users_get_their_best_unseen_items(make: Any) -> None:
    served = serve(log(), make())
    if make is EASE:
        served.model.weights.normal_(generator=torch.Generator().manual_seed(1))  # type: ignore[operator]
    frame = served.recommend(users=["3", "17"], k=5)
    assert frame.columns == ["who", "what", "score", "rank"]
    assert frame["who"].to_list() == ["3"] * 5 + ["17"] * 5
    assert frame["rank"].to_list() == [1, 2, 3, 4, 5] * 2
    for user, part in frame.group_by("who"):
        row = int(served.users.index([user[0]])[0])
        assert part["what"].to_list() == expected(
            served, row, 5, set(served.seen.row(row).tolist())
        )
    kept = served.recommend(users="3", k=5, exclude_seen=False)
    assert kept["what"].to_list() == expected(served, int(served.users.index(["3"])[0]), 5, set())
    whole = served.recommend(users="all", k=4)
    assert whole.equals(served.recommend(users=served.users.values, k=4))


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_the_kind_of_frame_that_came_in_goes_out(kind: str) -> None:
    wanted = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.Table}[kind]
    served, own = serve(log()), serve(log(kind))
    new = pl.DataFrame({"user": [9, 9, 8], "item": [1, 2, 3]})
    given: Any = {"pandas": new.to_pandas, "polars": lambda: new, "pyarrow": new.to_arrow}[kind]()
    users = {
        "pandas": pd.Series(["1", "2"]),
        "polars": pl.Series(["1", "2"]),
        "pyarrow": pa.chunked_array([["1", "2"]]),
    }
    found = [
        served.recommend(histories=given, k=3),
        served.recommend(users=users[kind]),
        own.recommend(users=["1"]),
    ]
    found += [
        own.similar(1, k=2),
        own.item_vectors(),
        own.user_vectors(users=["1"]),
        next(own.stream(k=2)),
    ]
    assert all(isinstance(frame, wanted) for frame in found)


def test_histories_equal_the_same_users() -> None:
    served = serve(log())
    rows = {
        user: served.items.ids(served.seen.row(n)).to_list()
        for n, user in enumerate(served.users.values)
    }
    known = served.recommend(users=list(rows), k=4)
    assert known.equals(served.recommend(histories=rows, k=4))
    long = pl.DataFrame(
        [
            {"who": user, "what": i, "when": n}
            for user, row in rows.items()
            for n, i in enumerate(row)
        ]
    )
    # shuffled rows: the timestamps give the order, and the first appearance that of the users
    shuffled = long.sample(fraction=1.0, shuffle=True, seed=1)
    again = served.recommend(histories=shuffled, k=4)
    assert (
        again["who"].unique(maintain_order=True).to_list()
        == shuffled["who"].unique(maintain_order=True).to_list()
    )
    assert_same_lists(again.sort("who", "rank"), known.sort("who", "rank"))
    assert served.user_vectors(users=["7", "3"]).equals(
        served.user_vectors(histories={user: rows[user] for user in ("7", "3")})
    )


def test_times_of_histories_are_read_as_those_of_the_training_data(tmp_path: Path) -> None:
    form = "%d%m%y"
    days = [
        datetime.datetime(2024, 1, 28),
        datetime.datetime(2024, 2, 3),
        datetime.datetime(2024, 3, 1),
    ]
    rows = pl.DataFrame(
        {"who": ["a"] * 3, "what": [0, 1, 2], "when": [day.strftime(form) for day in days]}
    )
    data = Interactions.from_frame(
        rows, user="who", item="what", timestamp="when", time_format=form
    )
    model = ServedTowers()
    model.build(Space(n_users=data.n_users, n_items=data.n_items), seed=1)
    Recommender.for_log(model, data).save(tmp_path / "bundle")
    served = Recommender.load(tmp_path / "bundle")

    def order(frame: Any) -> list[int]:
        return served.items.ids(served._request(None, frame).query.history.values).to_list()

    for frame in (rows, rows[::-1].to_pandas(), rows.with_columns(when=pl.Series(days)), data):
        assert order(frame) == [0, 1, 2]
    with pytest.raises(DataError):
        order(rows.with_columns(when=pl.Series([1706400000, 1706900000, 1709200000])))


def test_what_is_not_known_is_counted_and_may_get_popular_items(
    caplog: pytest.LogCaptureFixture,
) -> None:
    served = serve(log())
    frame = served.recommend(histories={"x": [1, 999, 2, -5]}, k=3)
    assert frame.equals(served.recommend(histories={"x": [1, 2]}, k=3))
    assert served.counters["unknown_items"] == 2
    assert "2 items" in caplog.text
    with refused("'nobody'", by=NoHistoryError):
        served.recommend(users=["3", "nobody"])
    with refused("'y'", by=NoHistoryError):
        served.recommend(histories={"x": [1], "y": [999]})
    frame = served.recommend(users=["3", "nobody"], k=4, fallback="popularity")
    assert frame.filter(who="3").equals(served.recommend(users=["3"], k=4))
    popular = frame.filter(who="nobody")
    counts = served.popularity
    assert popular["score"].to_list() == counts.sort(descending=True).values[:4].tolist()
    assert [int(counts[i]) for i in served.items.index(popular["what"])] == popular[
        "score"
    ].to_list()
    assert served.counters["fallbacks"] == 1


def test_cold_items_and_users_are_ranked_or_left_out() -> None:
    data = Interactions.from_frame(
        pl.DataFrame({"user": ["all", "b"], "item": [1, 2]}), user="user", item="item"
    )
    served = serve(data.with_ids(users=["c", "d"], items=[7]))
    # an item that nobody had has a vector, and stands in lists
    assert 7 in served.recommend(users=["b"], k=3)["item"].to_list()
    # a user called "all" is named in a list
    assert served.recommend(users=["all"], k=1)["user"].to_list() == ["all"]
    assert served.recommend(users="all", k=1)["user"].to_list() == ["all", "b"]
    assert [part["user"].to_list() for part in served.stream(k=1, batch_size=1)] == [
        ["all"],
        ["b"],
        [],
        [],
    ]
    found = served.recommend(users="all", k=1, fallback="popularity")
    assert found["user"].to_list() == ["all", "b", "c", "d"]
    assert served.user_vectors()["user"].to_list() == ["all", "b"]
    with refused("'c'", by=NoHistoryError):
        served.user_vectors(users=["b", "c"])


def test_item_columns_are_joined() -> None:
    features = pl.DataFrame(
        {"what": [*range(39), 500], "title": [f"item {n}" for n in range(39)] + ["elsewhere"]}
    )
    served = serve(log(), item_features=features)
    frame = served.recommend(users=served.users.values, k=33, item_columns=["title"])
    for item, title in frame.select("what", "title").iter_rows():
        assert title == (None if item == 39 else f"item {item}")
    for wanted in (["name"], ["title", "title"], ["score"]):
        with refused("item_columns", wanted[-1]):
            served.recommend(users=["1"], item_columns=wanted)


@pytest.mark.parametrize(
    ("call", "options", "name"),
    [
        ("recommend", {"users": ["1"], "histories": {"x": [1]}}, "histories"),
        ("recommend", {"users": [1]}, "users"),
        ("recommend", {"users": ["1"], "k": 0}, "k = 0"),
        ("recommend", {"histories": {"x": 5}}, "histories"),
        ("recommend", {"histories": pl.DataFrame({"who": ["a"]})}, "item"),
        ("similar", {"items": [4711]}, "4711"),
        ("similar", {"block": [1, None]}, "block"),
    ],
)
def test_what_is_wrong_is_named(call: str, options: dict[str, Any], name: str) -> None:
    with refused(name):
        getattr(serve(log()), call)(**options)


def test_for_split_has_seen_train_and_valid_but_not_test() -> None:
    data = log()
    split = data.split("leave-one-out")
    model = ServedTowers().build(Space(n_users=data.n_users, n_items=data.n_items))
    for handle in (split, split.sealed()):
        served = Recommender.for_log(model, handle.sealed().interactions)
        assert torch.equal(served.seen.values, split.fit_part("train+valid").items.values)
        assert torch.equal(served.seen.offsets, split.fit_part("train+valid").items.offsets)


# -- part by part


@pytest.mark.parametrize("options", [{}, {"rules": {"block": [1, 2]}, "exclude_seen": False}])
@pytest.mark.parametrize("engine", [None, Engine(workers=2)], ids=["here", "workers"])
def test_parts_are_the_whole(options: dict[str, Any], engine: Engine | None) -> None:
    served = serve(log())
    parts = list(served.stream(k=4, batch_size=7, engine=engine, **options))
    assert [part["who"].n_unique() for part in parts] == [7, 7, 7, 7, 2]
    assert_same_lists(pl.concat(parts), served.recommend(users="all", k=4, **options))
    histories = {"x": [1, 2], "y": [3], "z": [4, 999]}
    new = list(served.stream(histories=histories, k=4, batch_size=2, engine=engine, **options))
    assert served.counters["unknown_items"] == 1
    assert_same_lists(pl.concat(new), served.recommend(histories=histories, k=4, **options))


# -- vectors


def test_scores_are_inner_products_of_the_vectors() -> None:
    served = serve(log())
    items, users = served.item_vectors(), served.user_vectors()
    assert (items.columns, users.columns) == (["what", "vector"], ["who", "vector"])
    assert items.schema["vector"] == pl.Array(pl.Float32, 6)
    scores = users["vector"].to_numpy() @ items["vector"].to_numpy().T
    found = served.recommend(users=["3", "17"], k=5)
    for user, item, score in found.select("who", "what", "score").iter_rows():
        row, place = users["who"].to_list().index(user), items["what"].to_list().index(item)
        assert score == pytest.approx(scores[row, place], rel=1e-6, abs=1e-6)
    with refused("EASE"):
        serve(log(), EASE()).item_vectors()


# -- items like an item


def cosines(served: Recommender, by: str) -> torch.Tensor:
    if by == "vectors":
        unit = torch.nn.functional.normalize(served.model.encode_items().detach().double())
        return unit @ unit.T
    had = torch.zeros(len(served.users), len(served.items), dtype=torch.float64)
    had[served.seen.rows, served.seen.values] = 1
    counts = had.sum(0)
    return had.T @ had / (counts[:, None] * counts).sqrt().clamp(min=1)


@pytest.mark.parametrize("by", ["vectors", "co_occurrence"])
def test_similar_items_are_those_of_a_slow_oracle(by: Any) -> None:
    served = serve(log())
    wanted = cosines(served, by)
    frame = served.similar(k=6, by=by)
    assert frame.columns == ["what", "similar", "score", "rank"]
    assert frame["what"].unique(maintain_order=True).to_list() == served.items.values.to_list()
    for (item,), part in frame.group_by("what"):
        row = int(served.items.index([item])[0])
        others = wanted[row].clone()
        others[row] = -1
        best = others.topk(6).values
        best = best[best > 0] if by == "co_occurrence" else best
        assert part["score"].to_list() == pytest.approx(best.tolist(), abs=1e-6)
        found = torch.from_numpy(served.items.index(part["similar"]))
        assert part["score"].to_list() == pytest.approx(wanted[row, found].tolist(), abs=1e-6)
        assert row not in found.tolist()
    assert_same_lists(served.similar(k=6, by=by, batch_size=3), frame)
    some = served.similar(served.items.values[[7, 2]].to_list(), k=6, by=by)
    assert_same_lists(some, pl.concat(frame.filter(what=served.items.values[n]) for n in (7, 2)))


@pytest.mark.parametrize("by", ["vectors", "co_occurrence"])
def test_similar_items_without_vector_or_that_are_left_out(
    by: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row by row where few are left out, else by a catalogue of their own."""
    model = ServedTowers()
    served = serve(log(), model)
    with torch.no_grad():
        model.table.weight[7] = 0
    served.refresh()
    zero, found = served.items.values[7], []
    for few in (0, 1024):
        monkeypatch.setattr(lists, "_FEW", few)
        found.append(
            [
                served.similar(k=8, by=by, block=[2, 3]),
                served.similar(k=8, by=by, allow=[*range(5, 25)]),
            ]
        )
        if by == "vectors":
            assert served.similar(k=5, allow=[zero]).is_empty()
    for one, other in zip(*found, strict=True):
        assert_same_lists(one, other)
    assert not {2, 3} & set(found[0][0]["similar"])
    assert (zero in {*found[0][0]["similar"], *found[0][0]["what"]}) == (by == "co_occurrence")


# -- approximate lists


def test_approximate_search_with_everything_found_is_exact() -> None:
    pytest.importorskip("faiss")
    served = serve(log(n_users=50, n_items=400), SASRec(hidden_dim=32))
    exact = served.recommend(users="all", k=10)
    near = served.use_ann().recommend(users="all", k=10)
    assert near.drop("score").equals(exact.drop("score"))
    assert (near["score"] - exact["score"]).abs().max() < 1e-5
    assert near.equals(served.recommend(users="all", k=10))
    # a search of one cell of 40, of which nobody finds 20 items
    served.use_ann(AnnIndex.build(served.model, "IVF40,Flat", search="nprobe=1"))
    assert served.recommend(users="all", k=20).equals(served.refresh().recommend(users="all", k=20))
    for factory, search in (("nonsense", None), ("HNSW32", "nprobe=2"), ("IVF4096,Flat", None)):
        with refused("factory", factory):
            AnnIndex.build(served.model, factory, search=search)
    with refused("index"):
        served.use_ann(AnnIndex.build(serve(log(n_items=400)).model))


@pytest.mark.parametrize(
    ("dim", "kind"),
    [(8, "IndexIVFFlat"), pytest.param(32, "IndexIVFPQFastScan", marks=pytest.mark.slow)],
)
def test_a_large_catalogue_is_searched_by_cells(dim: int, kind: str) -> None:
    faiss = pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(0)
    n_items, n_users = 22_000, 64
    model = ServedTowers(hidden_dim=dim).build(Space(n_users=n_users, n_items=n_items), seed=1)
    # trained vectors lie around some directions, and users near items
    ways = torch.randn(50, dim, generator=generator)
    rows = ways[torch.randint(50, (n_items,), generator=generator)]
    model.table.weight.data.copy_(rows + 0.5 * torch.randn(n_items, dim, generator=generator))
    values = torch.randint(n_items, (3 * n_users,), generator=generator)
    histories = Ragged.from_lengths(values, torch.full((n_users,), 3))
    query = Query(torch.arange(n_users), histories)
    index = AnnIndex.build(model)
    assert type(faiss.downcast_index(index.index)).__name__ == kind
    found = index.rank(model, query, histories, 10)
    catalogue = catalogue_for(model, n_items, 10)
    exact = catalogue.rank(model.encode_users(query), histories, ("exclude",))["exclude"]
    assert (found.items[:, :, None] == exact.items[:, None, :]).any(2).float().mean() > 0.95


# -- one recommender, many threads: each gets the answers that it would get alone

N_THREADS = 8
N_USERS = 40


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Threads take turns a thousand times as often as they do by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def in_threads(n_calls: int, call: Callable[[int], Any]) -> list[Any]:
    """``call(0), ..., call(n_calls - 1)``, by threads that begin together."""
    gate = threading.Barrier(N_THREADS)

    def some(thread: int) -> list[Any]:
        gate.wait()
        return [call(number) for number in range(thread, n_calls, N_THREADS)]

    with ThreadPoolExecutor(N_THREADS) as pool:
        parts = list(pool.map(some, range(N_THREADS)))
    return [parts[number % N_THREADS][number // N_THREADS] for number in range(n_calls)]


@pytest.mark.usefixtures("frequent_switches")
@pytest.mark.parametrize("make", [LightGCN, SASRec, EASE])
def test_threads_get_the_answers_of_one(make: Callable[[], Model]) -> None:
    served = recommender(make, 500)
    alone = [served.recommend(users=[user], k=10) for user in range(N_USERS)]
    served.refresh()
    found = in_threads(80, lambda n: served.recommend(users=[n % N_USERS], k=10))
    assert [n for n, frame in enumerate(found) if not frame.equals(alone[n % N_USERS])] == []
    again = pickle.loads(pickle.dumps(served))
    assert again.recommend(users=[3], k=10).equals(alone[3])


@pytest.mark.usefixtures("frequent_switches")
def test_no_count_is_lost() -> None:
    served = recommender(LightGCN)
    in_threads(
        160,
        lambda n: served.recommend(users=[3, -1], k=3, allow=[1, 2, 3, 999], fallback="popularity"),
    )
    assert served.counters == {"unknown_items": 160, "unknown_users": 160, "fallbacks": 160}
