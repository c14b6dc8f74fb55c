"""Recommendations in the user's own ids, from users and from histories."""

from __future__ import annotations

import datetime
import uuid
from typing import Annotated, Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from pydantic import Field
from torch import Tensor

from recgraph import registry
from recgraph.data.batches import Query
from recgraph.data.errors import TimestampError
from recgraph.data.interactions import Interactions
from recgraph.evaluate.ranking import catalogue_for, evaluating
from recgraph.models.base import Model, ModelConfig, Space
from recgraph.models.closed_form.ials import IALS
from recgraph.models.closed_form.linear import EASE
from recgraph.models.collaborative.lightgcn import BPRMF, LightGCN
from recgraph.models.sequence.sasrec import SASRec
from recgraph.serve import ann
from recgraph.serve import recommender as module
from recgraph.serve.ann import recall_of_lists
from recgraph.serve.recommender import NoHistoryError, Recommender
from recgraph.sparse.ragged import Ragged


class ServedTowersConfig(ModelConfig):
    hidden_dim: Annotated[int, Field(ge=1)] = 6


@registry.register("model")
class ServedTowers(Model):
    """The mean of the history's item vectors against item vectors."""

    Config = ServedTowersConfig

    def _build(self, space: Space) -> None:
        self.table = torch.nn.Embedding(space.n_items, self.config.hidden_dim)

    def encode_users(self, query: Query) -> Tensor:
        sums = self.table.weight.new_zeros(len(query), self.config.hidden_dim)
        return sums.index_add(0, query.history.rows, self.table(query.history.values))

    def encode_items(self) -> Tensor:
        return self.table.weight


def log(kind: str = "polars", user: Any = str, item: Any = int, n_users: int = 30, n_items: int = 40) -> Interactions:
    generator = torch.Generator().manual_seed(0)
    rows = [
        {"who": user(u), "what": item(i), "when": n}
        for u in range(n_users)
        for n, i in enumerate(torch.randperm(n_items, generator=generator)[:7].tolist())
    ]
    frame = pl.DataFrame({key: [row[key] for row in rows] for key in rows[0]})
    if kind == "pandas":
        frame = pd.DataFrame(rows)
    elif kind == "pyarrow":
        frame = frame.to_arrow()
    return Interactions.from_frame(frame, user="who", item="what", timestamp="when")


def serve(data: Interactions, model: Model | None = None, **settings: Any) -> Recommender:
    model = model if model is not None else ServedTowers()
    model.build(Space(n_users=data.n_users, n_items=data.n_items), seed=1)
    return Recommender(
        model, data.users, data.items, data.ordered.items, columns=data.columns, kind=data.kind, **settings
    )


def expected(served: Recommender, user_row: int, k: int, barred: set[int]) -> list[Any]:
    with evaluating(served.model):
        scores = served.model.score(Query(torch.tensor([user_row]), served.seen.take(torch.tensor([user_row]))))[0]
    order = [item for item in scores.argsort(descending=True).tolist() if item not in barred][:k]
    return served.items.ids(order).to_list()


def test_users_get_their_best_unseen_items() -> None:
    served = serve(log())
    frame = served.recommend(users=["3", "17"], k=5)
    assert frame.columns == ["who", "what", "score", "rank"]
    assert frame["who"].to_list() == ["3"] * 5 + ["17"] * 5
    assert frame["rank"].to_list() == [1, 2, 3, 4, 5] * 2
    for user, part in frame.group_by("who"):
        row = int(served.users.index([user[0]])[0])
        assert part["what"].to_list() == expected(served, row, 5, set(served.seen.row(row).tolist()))
    kept = served.recommend(users="3", k=5, exclude_seen=False)
    assert kept["what"].to_list() == expected(served, int(served.users.index(["3"])[0]), 5, set())


@pytest.mark.parametrize("kind", ["pandas", "polars", "pyarrow"])
def test_the_kind_of_frame_that_came_in_goes_out(kind: str) -> None:
    wanted = {"pandas": pd.DataFrame, "polars": pl.DataFrame, "pyarrow": pa.Table}[kind]
    served = serve(log())
    new = pl.DataFrame({"user": [9, 9, 8], "item": [1, 2, 3]})
    given: Any = {"pandas": new.to_pandas, "polars": lambda: new, "pyarrow": new.to_arrow}[kind]()
    assert isinstance(served.recommend(histories=given, k=3), wanted)
    assert isinstance(serve(log(kind)).recommend(users=["1"]), wanted)
    users = {
        "pandas": pd.Series(["1", "2"]),
        "polars": pl.Series(["1", "2"]),
        "pyarrow": pa.chunked_array([["1", "2"]]),
    }
    assert isinstance(served.recommend(users=users[kind]), wanted)


@pytest.mark.parametrize(
    "make",
    [
        str,
        int,
        lambda n: uuid.UUID(int=n),
        lambda n: datetime.date(2020, 1, 1) + datetime.timedelta(n),
        lambda n: b"%d" % n,
    ],
)
def test_ids_of_any_type_come_back(make: Any, tmp_path: Any) -> None:
    data = log("pandas", user=make, item=make)
    serve(data).save(tmp_path / "bundle")
    frame = Recommender.load(tmp_path / "bundle").recommend(users=[make(4)], k=3)
    assert frame["who"].tolist() == [make(4)] * 3
    assert all(type(value) is type(make(0)) for value in frame["what"].tolist())


def test_histories_equal_the_same_users() -> None:
    served = serve(log())
    rows = {user: served.items.ids(served.seen.row(n)).to_list() for n, user in enumerate(served.users.values)}
    known = served.recommend(users=list(rows), k=4)
    new = served.recommend(histories=rows, k=4)
    assert known.equals(new)
    long = pl.DataFrame([{"who": user, "what": i, "when": n} for user, row in rows.items() for n, i in enumerate(row)])
    # shuffled rows: the timestamps give the order, and the first appearance that of the users
    shuffled = long.sample(fraction=1.0, shuffle=True, seed=1)
    again = served.recommend(histories=shuffled, k=4)
    assert again["who"].unique(maintain_order=True).to_list() == shuffled["who"].unique(maintain_order=True).to_list()
    assert again.sort("who", "rank").equals(known.sort("who", "rank"))


def test_histories_in_a_frame_are_those_of_a_mapping_where_ids_are_texts_of_floats() -> None:
    rows = pl.DataFrame({"who": ["a"] * 4 + ["b"] * 3, "what": ["1", "1.0", "2", "2.0", "beta", "1", "2.0"]})
    served = serve(Interactions.from_frame(rows, user="who", item="what"))
    frame = served.recommend(histories=pl.DataFrame({"who": ["c"] * 2, "what": ["1.0", "2.0"]}), k=5)
    assert frame.equals(served.recommend(histories={"c": ["1.0", "2.0"]}, k=5))
    assert set(frame["what"]) == {"1", "2", "beta"}


def test_users_of_a_mapping_that_are_uuids_come_back_as_uuids() -> None:
    served, user = serve(log("pandas", user=lambda number: uuid.UUID(int=number))), uuid.UUID(int=99)
    rows = pd.DataFrame({"who": [user] * 2, "what": served.items.ids([3, 4]).to_list()})
    mapping = {user: rows["what"].tolist()}
    pd.testing.assert_frame_equal(served.recommend(histories=mapping, k=3), served.recommend(histories=rows, k=3))
    blocked = served.recommend(histories=mapping, k=3, block={user: served.recommend(histories=mapping, k=3)["what"]})
    assert blocked["who"].tolist() == [user] * 3


@pytest.mark.parametrize("form", ["%d%m%y", "%y/%d/%m", "%Y/%d/%m %H:%M", "%Y-%m-%d at %H:%M"])
def test_times_of_histories_are_read_as_those_of_the_training_data(form: str, tmp_path: Any) -> None:
    days = [datetime.datetime(2024, 1, 28), datetime.datetime(2024, 2, 3), datetime.datetime(2024, 3, 1)]
    rows = pl.DataFrame({"who": ["a"] * 3, "what": [0, 1, 2], "when": [day.strftime(form) for day in days]})
    data = Interactions.from_frame(rows, user="who", item="what", timestamp="when", time_format=form)
    data.save(tmp_path / "log")
    model = ServedTowers()
    model.build(Space(n_users=data.n_users, n_items=data.n_items), seed=1)
    Recommender.for_log(model, Interactions.load(tmp_path / "log")).save(tmp_path / "bundle")
    served = Recommender.load(tmp_path / "bundle")

    def order(frame: Any) -> list[int]:
        return served.items.ids(served._request(None, frame).query.history.values).to_list()

    for frame in (rows, rows[::-1].to_pandas(), rows.with_columns(when=pl.Series(days)), data):
        assert order(frame) == [0, 1, 2]
    iso = rows.with_columns(when=pl.Series([f"{day:%Y-%m-%d}" for day in days]))
    if form.startswith("%Y/%d"):
        with pytest.raises(TimestampError, match=r"has not the form time_format='%Y/.*; times in another form come in"):
            order(iso)
    else:
        assert order(iso) == [0, 1, 2]
    with pytest.raises(
        TimestampError, match=r"has not the form .*; .* by rg\.Interactions\.from_frame\(frame, \.\.\., ti"
    ):
        order(rows.with_columns(when=pl.Series([1706400000, 1706900000, 1709200000])))


def test_times_of_histories_that_cannot_be_read_say_how_they_come_in() -> None:
    served = serve(log())
    with pytest.raises(TimestampError, match=r"'28.01.24' .* by rg\.Interactions\.from_frame\(frame, .*time_format="):
        served.recommend(histories=pl.DataFrame({"who": ["a"], "what": [1], "when": ["28.01.24"]}))


def test_unknown_items_are_skipped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    served = serve(log())
    frame = served.recommend(histories={"x": [1, 999, 2, -5]}, k=3)
    assert frame.equals(served.recommend(histories={"x": [1, 2]}, k=3))
    assert served.counters["unknown_items"] == 2
    assert "2 items of the histories" in caplog.text


def test_users_without_history_raise_or_get_popular_items() -> None:
    served = serve(log())
    with pytest.raises(NoHistoryError, match=r"'nobody'.*fallback='popularity' \(--popular\)"):
        served.recommend(users=["3", "nobody"])
    with pytest.raises(NoHistoryError, match=r"with known items$"):  # vectors have no fallback
        served.user_vectors(users=["nobody"])
    with pytest.raises(NoHistoryError, match="'y'"):
        served.recommend(histories={"x": [1], "y": [999]})
    frame = served.recommend(users=["3", "nobody"], k=4, fallback="popularity")
    assert frame.filter(who="3").equals(served.recommend(users=["3"], k=4))
    popular = frame.filter(who="nobody")
    counts = served.popularity
    assert popular["score"].to_list() == counts.sort(descending=True).values[:4].tolist()
    assert [int(counts[i]) for i in served.items.index(popular["what"])] == popular["score"].to_list()
    assert served.counters["unknown_users"] == 2


def test_allow_and_block() -> None:
    served = serve(log())
    row = int(served.users.index(["3"])[0])
    seen = set(served.seen.row(row).tolist())
    allow, block = list(range(20)), [3, 4, 5, 12_345]
    barred = seen | {int(i) for i in served.items.index(list(range(20, 40)) + block[:3])}
    frame = served.recommend(users=["3"], k=40, allow=allow, block=block)
    assert frame["what"].to_list() == expected(served, row, 40, barred)
    assert len(frame) == 40 - len(barred)
    assert served.counters["unknown_items"] == 1
    popular = served.recommend(histories={"new": []}, k=40, allow=allow, block=block, fallback="popularity")
    assert set(popular["what"]) == set(allow) - set(block)


def test_item_columns_are_joined() -> None:
    data = log()
    features = pl.DataFrame({"what": [*range(39), 500], "title": [f"item {n}" for n in range(39)] + ["elsewhere"]})
    served = serve(data, item_features=features)
    frame = served.recommend(users=data.users.values, k=33, item_columns=["title"])
    for item, title in frame.select("what", "title").iter_rows():
        assert title == (None if item == 39 else f"item {item}")
    with pytest.raises(ValueError, match="item_columns = 'name'"):
        served.recommend(users=["1"], item_columns=["name"])


@pytest.mark.parametrize(
    ("user", "wanted", "twice"),
    [
        ("who", ["title", "rank"], "rank"),
        ("who", ["score"], "score"),
        ("who", ["title", "title"], "title"),
        ("who", ["what", "item"], "item"),  # with the log's own name among them, the answer's columns are plain
        ("rank", ["user"], "user"),
    ],
)
def test_item_columns_that_the_answer_has_already_are_refused(user: str, wanted: list[str], twice: str) -> None:
    data = log()
    names = ("title", "rank", "score", "user", "item")
    served = serve(
        data, item_features=pl.DataFrame({"what": range(40)}).with_columns(pl.lit(1).alias(n) for n in names)
    )
    served.columns = served.columns.model_copy(update={"user": user})
    with pytest.raises(ValueError, match=f"item_columns = '{twice}' would be in the answer twice"):
        served.recommend(users=["1"], item_columns=wanted)


@pytest.mark.parametrize("kind", [pl.Categorical(), pl.Enum(["3", "8", "nobody"])], ids=str)
def test_users_may_come_as_categories(kind: pl.DataType) -> None:
    served = serve(log())
    plain = served.recommend(users=["8", "3"], k=5)
    assert served.recommend(users=pl.Series(["8", "3"], dtype=kind), k=5).equals(plain)
    assert served.users.index(pl.Series(["8", "nobody"], dtype=kind)).tolist() == [8, -1]


def test_models_that_give_scores() -> None:
    data = log()
    model = EASE().build(Space(n_users=data.n_users, n_items=data.n_items))
    model.fit(data.split("leave-one-out").train)
    served = Recommender.for_split(model, data.split("leave-one-out"))
    row = int(served.users.index(["3"])[0])
    assert served.recommend(users=["3"], k=5)["what"].to_list() == expected(
        served, row, 5, set(served.seen.row(row).tolist())
    )


def test_for_split_has_seen_train_and_valid_but_not_test() -> None:
    data = log()
    split = data.split("leave-one-out")
    model = ServedTowers().build(Space(n_users=data.n_users, n_items=data.n_items))
    for handle in (split, split.sealed()):
        served = Recommender.for_split(model, handle)
        assert torch.equal(served.seen.values, split.fit_part("train+valid").items.values)
        assert torch.equal(served.seen.offsets, split.fit_part("train+valid").items.offsets)


def test_approximate_search_with_everything_found_is_exact() -> None:
    pytest.importorskip("faiss")
    data = log(n_users=50, n_items=400)
    served = serve(data)
    served.model.table.weight.data[100:120] = served.model.table.weight.data[:20]
    exact = served.recommend(users=data.users.values, k=10)
    near = served.use_ann(module.AnnIndex.build(served.model, "Flat")).recommend(users=data.users.values, k=10)
    assert near.drop("score").equals(exact.drop("score"))
    assert (near["score"] - exact["score"]).abs().max() < 1e-5
    hnsw = served.use_ann(module.AnnIndex.build(served.model, "HNSW32")).recommend(users=data.users.values, k=10)
    assert len(hnsw.join(exact, on=["who", "what"])) > 0.9 * len(exact)
    with pytest.raises(ValueError, match="factory"):
        module.AnnIndex.build(served.model, "nonsense")
    with pytest.raises(ValueError, match="search = 'nprobe=2' does not fit factory = 'HNSW32'"):
        module.AnnIndex.build(served.model, "HNSW32", search="nprobe=2")
    with pytest.raises(
        ValueError, match="the default index of 246 items, 'Flat', which compares all; leave search out"
    ):
        module.AnnIndex.build(served.model, search="nprobe=2")
    assert served.use_ann().recommend(users=data.users.values, k=10).drop("score").equals(exact.drop("score"))


@pytest.mark.parametrize(("dim", "kind"), [(8, "IndexIVFFlat"), (32, "IndexIVFPQFastScan")])
def test_a_large_catalogue_is_searched_by_cells(dim: int, kind: str) -> None:
    faiss = pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(0)
    n_items, n_users = 22_000, 64
    model = ServedTowers(hidden_dim=dim).build(Space(n_users=n_users, n_items=n_items), seed=1)
    # trained vectors lie around some directions, and users near items
    ways = torch.randn(50, dim, generator=generator)
    rows = ways[torch.randint(50, (n_items,), generator=generator)] + 0.5 * torch.randn(
        n_items, dim, generator=generator
    )
    model.table.weight.data.copy_(rows)
    histories = Ragged.from_lengths(
        torch.randint(n_items, (3 * n_users,), generator=generator), torch.full((n_users,), 3)
    )
    query = Query(torch.arange(n_users), histories)
    index = module.AnnIndex.build(model)
    assert type(faiss.downcast_index(index.index)).__name__ == kind
    assert index.index.nlist == 148
    found = index.rank(model, query, histories, 10)
    catalogue = catalogue_for(model, n_items, 10)
    exact = catalogue.rank(model.encode_users(query), histories, ("exclude",))["exclude"]
    hits = (found.items[:, :, None] == exact.items[:, None, :]).any(2)
    assert hits.float().mean() > 0.95
    again = module.AnnIndex.build(model).rank(model, query, histories, 10)
    assert torch.equal(found.items, again.items)
    alone = [
        index.rank(model, query.take(row), histories.take(row), 10).items for row in torch.arange(n_users)[:, None]
    ]
    assert torch.equal(found.items, torch.cat(alone))


def test_codes_in_few_cells_are_trained_on_all_items() -> None:
    """256 centroids of a part of a vector need more rows than the centroids of two cells."""
    pytest.importorskip("faiss")
    served = serve(log(n_users=60, n_items=2000))
    served.use_ann(module.AnnIndex.build(served.model, "IVF2,PQ2", search="nprobe=2"))
    assert recall_of_lists(served) > 0.9


@pytest.mark.parametrize("factory", ["IVF256,Flat", "PQ3"])
def test_an_index_of_more_cells_or_codes_than_items_is_refused(factory: str) -> None:
    pytest.importorskip("faiss")
    with pytest.raises(ValueError, match=f"factory = '{factory}' cannot be trained on 40 items; take fewer cells"):
        module.AnnIndex.build(serve(log()).model, factory)


def test_vectors_of_candidates_are_gathered_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long lists have ten thousand candidates a user."""
    pytest.importorskip("faiss")
    data = log(n_users=50, n_items=400)
    served = serve(data).use_ann()
    whole = served.recommend(users=data.users.values, k=50)
    monkeypatch.setattr(ann, "_NUMBERS", 1)
    assert served.recommend(users=data.users.values, k=50).equals(whole)
    assert pl.concat(served.recommend(users=[user], k=50) for user in data.users.values).equals(whole)


def test_approximate_scores_do_not_depend_on_how_many_users_are_ranked_at_a_time() -> None:
    pytest.importorskip("faiss")
    data = log(n_users=90, n_items=400)
    served = serve(data, SASRec(hidden_dim=32)).use_ann()
    whole = served.recommend(users="all", k=20)
    assert served.recommend(users="all", k=20, batch_size=1).equals(whole)
    assert served.recommend(users="all", k=20, batch_size=7).equals(whole)


def test_how_near_approximate_lists_are_to_exact_ones() -> None:
    pytest.importorskip("faiss")
    served = serve(log(n_users=60, n_items=3000))
    with pytest.raises(ValueError, match="call use_ann"):
        recall_of_lists(served)
    exact = served.recommend(users="all", k=7)
    shares = {}
    for factory, search in (("Flat", None), ("IVF64,Flat", "nprobe=1"), ("IVF64,Flat", "nprobe=16")):
        served.use_ann(module.AnnIndex.build(served.model, factory, search=search))
        shares[search] = recall_of_lists(served, k=7, n_users=1000)
        found = served.recommend(users="all", k=7)
        assert shares[search] == len(exact.join(found, on=["who", "what"])) / len(exact)
        assert served.ann is not None
    assert 0 < shares["nprobe=1"] < shares["nprobe=16"] < shares[None] == 1


def test_a_user_for_whom_an_index_finds_too_few_is_ranked_exactly() -> None:
    pytest.importorskip("faiss")
    served = serve(log(n_users=40, n_items=400))
    exact = served.recommend(users="all", k=20)
    # a search of one cell of 40, of which nobody finds 20 items
    served.use_ann(module.AnnIndex.build(served.model, "IVF40,Flat", search="nprobe=1"))
    assert served.recommend(users="all", k=20).equals(exact)
    few = served.recommend(users="all", k=2)
    assert few["rank"].to_list() == [1, 2] * 40
    assert not few.equals(exact.filter(pl.col("rank") <= 2))
    kept = served.recommend(users="all", k=400, exclude_seen=False)
    assert len(kept) == 40 * len(served.items)


def test_an_index_of_vectors_that_are_not_finite_or_of_another_model() -> None:
    pytest.importorskip("faiss")
    served, other = serve(log(n_items=40)), serve(log(n_users=60, n_items=400))
    with pytest.raises(ValueError, match=r"index: it has \d+ items, the model 40; AnnIndex.build\(model\) makes"):
        served.use_ann(module.AnnIndex.build(other.model, "Flat")).recommend(users=["3"])
    index = module.AnnIndex.build(served.model, "Flat")
    served.model.table.weight.data[5] = torch.nan
    with pytest.raises(ValueError, match="the vector of item index 5 is not finite; train or check the model"):
        module.AnnIndex.build(served.model, "Flat")
    who = next(user for user in served.users.values if 5 in served.seen.row(int(served.users.index([user])[0])))
    served.refresh().ann = index
    with pytest.raises(ValueError, match=r"the model scores user index .* with NaN"):
        served.recommend(users=[who])


def test_an_index_is_of_the_models_vectors_as_they_are() -> None:
    pytest.importorskip("faiss")
    data = log()
    served, another = serve(data), serve(data)
    index = module.AnnIndex.build(served.model, "Flat")
    with torch.no_grad():  # the rounding of another batch
        another.model.table.weight.mul_(1 + 1e-6)
    expected = another.recommend(users=["3"], k=5).drop("score")
    assert another.use_ann(index).recommend(users=["3"], k=5).drop("score").equals(expected)
    # one vector of all, changed by a thousandth, is no rounding
    for change in (-1, 1.001):
        with torch.no_grad():
            served.model.table.weight[7] *= change
        with pytest.raises(ValueError, match=r"index: its vectors are not the model's: .* AnnIndex.build"):
            served.use_ann(index)
        index = module.AnnIndex.build(served.model, "Flat")
        assert served.use_ann(index).ann is index
    wide = serve(data, ServedTowers(hidden_dim=8))
    message = "index: its vectors have 6 numbers each, the model's 8; AnnIndex"
    with pytest.raises(ValueError, match=message):
        wide.use_ann(index)
    wide.ann = index
    with pytest.raises(ValueError, match=message):
        wide.recommend(users=["3"])
    scores = EASE().build(Space(n_users=data.n_users, n_items=data.n_items))
    with pytest.raises(ValueError, match="EASE has no item vectors; an index needs a model that has them"):
        index.check(scores)


@pytest.mark.parametrize("make", [SASRec, LightGCN, IALS, BPRMF])
def test_an_index_fits_the_model_of_a_bundle(make: Any, tmp_path: Any) -> None:
    pytest.importorskip("faiss")
    data = log()
    split = data.split("leave-one-out")
    model = make(hidden_dim=8).build(Space(n_users=data.n_users, n_items=data.n_items), seed=1)
    model.fit(split.train) if isinstance(model, IALS) else model.setup(split.train)
    served = Recommender.for_split(model, split)
    index = module.AnnIndex.build(served.model, "Flat")
    served.save(tmp_path / "bundle")
    again = Recommender.load(tmp_path / "bundle").use_ann(index)
    found, expected = (each.recommend(users="all", k=5).drop("score") for each in (again, served))
    assert found.equals(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factory": "IVF4,Flat", "search": "nprobe=0"}, r"search = 'nprobe=0' of factory = 'IVF4,Flat' finds nothing"),
        ({"oversample": 1.5}, r"oversample = 1.5 must be a whole number or None"),
        ({"oversample": 0}, r"oversample = 0 must be at least 1"),
        ({"factory": 5}, r"factory = 5 must be a text or None"),
        ({"model": None}, r"model = None must be a Model"),
    ],
)
def test_an_index_that_cannot_search_is_not_made(settings: dict[str, Any], message: str) -> None:
    pytest.importorskip("faiss")
    with pytest.raises(ValueError, match=message):
        module.AnnIndex.build(**{"model": serve(log()).model, **settings})


@pytest.mark.parametrize("given", ["Flat", 5])
def test_an_index_is_asked_for(given: Any) -> None:
    with pytest.raises(ValueError, match=rf"index = {given!r} must be an AnnIndex or None"):
        serve(log()).use_ann(given)


@pytest.mark.parametrize("make", [lambda n: uuid.UUID(int=n), lambda n: datetime.date(2020, 1, 1 + n), str])
def test_recall_of_lists_with_ids_of_any_type(make: Any) -> None:
    pytest.importorskip("faiss")
    served = serve(log("pandas", user=make, item=make, n_users=20, n_items=30))
    served.use_ann(module.AnnIndex.build(served.model, "Flat"))
    assert recall_of_lists(served, k=5) == 1


def test_texts_that_are_no_uuids_are_users_that_are_not_known() -> None:
    served = serve(log("pandas", user=lambda n: uuid.UUID(int=n), n_users=20, n_items=30))
    asked = [uuid.UUID(int=3), "x", None]
    with pytest.raises(NoHistoryError, match="nothing is known of user 'x'"):
        served.recommend(users=asked, k=2)
    found = served.recommend(users=asked, k=2, fallback="popularity")
    assert found[found.columns[0]].unique().tolist() == asked


@pytest.mark.parametrize("settings", [{"n_users": -1}, {"n_users": 0}, {"k": 0}])
def test_recall_is_of_some_users_and_items(settings: dict[str, Any]) -> None:
    pytest.importorskip("faiss")
    with pytest.raises(ValueError, match=rf"{next(iter(settings))} = .* must be at least 1"):
        recall_of_lists(serve(log()).use_ann(), **settings)


def test_recall_where_the_users_have_seen_every_item() -> None:
    pytest.importorskip("faiss")
    served = serve(log(n_items=7)).use_ann()
    with pytest.raises(ValueError, match="the exact lists are empty: the sampled users have seen every item"):
        recall_of_lists(served)


def test_approximate_lists_do_not_depend_on_who_else_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faiss")
    data = log(n_users=300, n_items=400)
    served = serve(data).use_ann()
    assert served.ann is not None
    asked: list[int] = []
    search = served.ann.index.search
    monkeypatch.setattr(served.ann.index, "search", lambda users, k: [asked.append(k), search(users, k)][1])
    together = served.recommend(users=data.users.values, k=5)
    # candidates by the length of the own history: 20, and that rounded up to a power of two
    lengths = served.seen.lengths.tolist()
    assert set(asked) == {20 + 2 ** (length - 1).bit_length() for length in lengths}
    alone = [served.recommend(users=[user], k=5) for user in data.users.values[:20]]
    assert together[: 5 * 20].equals(pl.concat(alone))


def test_training_further_needs_a_refresh() -> None:
    served = serve(log())
    served.recommend(users=["3"])
    served.model.table.weight.data.neg_()
    other = served.refresh().recommend(users=["3"], k=5)
    row = int(served.users.index(["3"])[0])
    assert other["what"].to_list() == expected(served, row, 5, set(served.seen.row(row).tolist()))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either users"),
        ({"users": ["1"], "histories": {"x": [1]}}, "either users"),
        ({"users": []}, "users is empty"),
        ({"users": [1]}, "integers"),
        ({"users": ["1"], "k": 0}, "k = 0"),
        ({"users": ["1"], "fallback": "random"}, "fallback = 'random'"),
        ({"users": ["1"], "allow": "7"}, "allow = '7'"),
        ({"users": ["1"], "allow": [999]}, "leave no item"),
        ({"histories": {}}, "histories is empty"),
        ({"histories": {"x": "12"}}, r"histories\['x'\] = '12'"),
        ({"histories": {"x": ["a"]}}, "texts"),
        ({"histories": [1, 2]}, "histories is a list"),
        ({"histories": pl.DataFrame({"user": [1], "movie": [2]})}, r"no column 'what' \(or 'item'\)"),
    ],
)
def test_errors_name_what_is_wrong(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serve(log()).recommend(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"users": "1"}, r"users = \['1'\] are texts, but the log's ids are integers; write 1$"),
        ({"users": ["x", "1"]}, r"users = \['x', '1'\] are texts, .* integers; give ids such as \d+$"),
        ({"users": [1.5]}, r"users = \[1.5\] are fractions, but the log's ids are integers; give ids such as \d+$"),
        ({"histories": {"a": ["1"]}}, r"items of histories = \['1'\] are texts, .* integers; write 1$"),
        ({"histories": {"a": [1, "x"]}}, r"items of histories are of several types: int, str"),
        ({"histories": pl.DataFrame({"user": ["a"], "item": ["x"]})}, r"items of histories = \['x'\] are texts"),
        ({"histories": {"a": {1, 2}}}, r"histories\['a'\] = .* is a set, .* an order is needed: give a list, oldest"),
        ({"histories": {"a": frozenset({1})}}, r"histories\['a'\] = .* is a set"),
    ],
)
def test_errors_about_ids_name_the_argument(arguments: dict[str, Any], message: str) -> None:
    served = serve(log(user=int))
    for asked in (served.recommend, served.user_vectors):
        with pytest.raises(ValueError, match=message):
            asked(**arguments)


def test_integers_where_ids_are_texts_are_told_how_to_be_written() -> None:
    with pytest.raises(ValueError, match=r"users = \[1\] are integers, but the log's ids are texts; write '1'$"):
        serve(log()).recommend(users=[1])


def test_a_nan_among_others_is_an_id_that_is_not_known() -> None:
    served = serve(log(user=int))
    with pytest.raises(NoHistoryError, match="nothing is known of user None"):
        served.recommend(users=[1, float("nan")])
    found = served.recommend(users=[1, float("nan")], k=3, fallback="popularity")
    assert found["who"].to_list() == [1] * 3 + [None] * 3
    plain = served.recommend(histories={"a": [1, 2]}, k=3)
    assert served.recommend(histories={"a": [1, float("nan"), 2]}, k=3).equals(plain)
    assert served.counters["unknown_items"] == 1
    with pytest.raises(NoHistoryError, match="nothing is known of user None"):
        serve(log()).recommend(users=["1", float("nan")])


def test_ids_may_come_as_arrays_of_arrow() -> None:
    served = serve(log(user=int))
    found = served.recommend(users=pa.array([1, 2]), k=3)
    assert isinstance(found, pa.Table)
    assert found.equals(served.recommend(users=pa.chunked_array([[1, 2]]), k=3))
    of_history = served.recommend(histories={"a": pa.array([1, 2])}, k=3, block=pa.array([3]))
    assert of_history.equals(served.recommend(histories={"a": [1, 2]}, k=3, block=[3]))
    similar = served.similar(pa.array([1, 2]), k=2)
    assert similar.equals(served.similar([1, 2], k=2).to_arrow())


def test_item_features_of_a_recommender_are_frames_with_the_column_of_items() -> None:
    data = log()
    features = pl.DataFrame({"what": [3, 5], "title": ["a", "b"]})
    made = [serve(data, item_features=each) for each in (features, features.to_pandas(), features.to_arrow())]
    found = [each.recommend(users=["3"], item_columns=["title"]) for each in made]
    assert found[0].equals(found[1])
    assert found[0].equals(found[2])
    with pytest.raises(ValueError, match="item_features has no column 'what' of item ids; its columns are 'x'"):
        serve(data, item_features=pl.DataFrame({"x": [1]}))
    with pytest.raises(ValueError, match="item_features is a int; give a frame of pandas, polars, pyarrow"):
        serve(data, item_features=5)
    sizes = Space(n_users=data.n_users, n_items=data.n_items)
    of: Any = ServedTowers().build(sizes), data.users, data.items, data.ordered.items
    with pytest.raises(ValueError, match="kind = 'foo' must be 'pandas', 'polars' or 'pyarrow'"):
        Recommender(*of, kind="foo")


def test_sizes_must_fit() -> None:
    data = log()
    with pytest.raises(ValueError, match="not built"):
        Recommender(ServedTowers(), data.users, data.items, data.ordered.items)
    for sizes in ({"n_users": 30, "n_items": 3}, {"n_users": 1, "n_items": 40}):
        with pytest.raises(
            ValueError, match=r"the model is built for n_users=.*, but users has 30 ids and items has 40"
        ):
            Recommender(ServedTowers().build(Space(**sizes)), data.users, data.items, data.ordered.items)
