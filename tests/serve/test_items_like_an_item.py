"""The items most like an item."""

from __future__ import annotations

import uuid
from typing import Any

import pandas as pd
import polars as pl
import pytest
import torch
from test_recommender import ServedTowers, log, serve

from recgraph.evaluate.rerank import Cosine
from recgraph.evaluate.topk import Catalogue
from recgraph.models.closed_form.linear import EASE
from recgraph.serve import similar as module
from recgraph.serve.recommender import Recommender


def cosines_by_users(served: Recommender) -> torch.Tensor:
    had = torch.zeros(len(served.users), len(served.items), dtype=torch.float64)
    had[served.seen.rows, served.seen.values] = 1
    counts = had.sum(0)
    return had.T @ had / (counts[:, None] * counts).sqrt().clamp(min=1)


def cosines_of_vectors(served: Recommender) -> torch.Tensor:
    unit = torch.nn.functional.normalize(served.model.encode_items().detach().double())
    return unit @ unit.T


@pytest.mark.parametrize("by", ["vectors", "co_occurrence"])
def test_lists_are_those_of_a_slow_oracle(by: Any) -> None:
    served = serve(log())
    wanted = (cosines_of_vectors if by == "vectors" else cosines_by_users)(served)
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
        assert part["rank"].to_list() == list(range(1, len(best) + 1))


def test_batches_and_single_items_alter_nothing() -> None:
    served = serve(log())
    for by in ("vectors", "co_occurrence"):
        whole = served.similar(k=5, by=by)
        assert whole.equals(served.similar(k=5, by=by, batch_size=3))
        wanted = served.items.values[[7, 2]].to_list()
        some = served.similar(wanted, k=5, by=by)
        parts = [whole.filter(pl.col("what") == item) for item in wanted]
        assert some.equals(pl.concat(parts))


def test_by_vectors_where_the_model_has_them() -> None:
    towers, ease = serve(log()), serve(log(), EASE())
    assert towers.similar(k=3).equals(towers.similar(k=3, by="vectors"))
    assert ease.similar(k=3).equals(ease.similar(k=3, by="co_occurrence"))
    with pytest.raises(ValueError, match="EASE ranks by scores alone"):
        ease.similar(k=3, by="vectors")


def test_lists_are_restricted_and_show_features() -> None:
    names = pl.DataFrame({"what": list(range(40)), "title": [f"title {n}" for n in range(40)]})
    served = serve(log(), item_features=names)
    allowed = list(range(10, 30))
    frame = served.similar([1, 12], k=30, allow=allowed, block=[15], item_columns=["title"])
    assert frame.columns == ["what", "similar", "score", "rank", "title"]
    assert set(frame.filter(pl.col("what") == 1)["similar"]) == set(allowed) - {15}
    assert set(frame.filter(pl.col("what") == 12)["similar"]) == set(allowed) - {15, 12}
    assert frame["title"].to_list() == [f"title {item}" for item in frame["similar"]]
    with pytest.raises(ValueError, match="item_columns = 'titel' is no column"):
        served.similar(1, item_columns=["titel"])


def test_answers_are_of_the_kind_that_was_given() -> None:
    served = serve(log("pandas"))
    assert isinstance(served.similar(1, k=2), pd.DataFrame)
    assert isinstance(served.similar(pl.Series([1, 2]), k=2), pl.DataFrame)


def test_items_that_are_uuids_come_back_as_uuids() -> None:
    served = serve(log("pandas", item=lambda number: uuid.UUID(int=number)))
    whole = served.similar(k=2)
    item = whole["what"][0]
    for asked in (item, str(item)):
        pd.testing.assert_frame_equal(served.similar([asked], k=2), whole[:2])


def test_items_without_vector_or_users_are_in_no_list() -> None:
    model = ServedTowers()
    served = serve(log(), model)
    with torch.no_grad():
        model.table.weight[3] = 0
    served.refresh()
    frame = served.similar(k=100)
    zero = served.items.ids([3])[0]
    assert zero not in set(frame["what"])
    assert zero not in set(frame["similar"])
    assert len(frame) == 39 * 38
    assert served.similar([zero]).is_empty()


def test_lists_that_are_restricted_to_items_without_vector_are_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a large catalogue, where a catalogue of the allowed items is made."""
    monkeypatch.setattr(module, "_FEW", 0)
    model = ServedTowers()
    served = serve(log(), model)
    with torch.no_grad():
        model.table.weight[3] = 0
    served.refresh()
    zero = served.items.ids([3])[0]
    assert served.similar(k=5, allow=[zero]).is_empty()
    assert served.similar([zero], k=5, allow=[1]).is_empty()
    with torch.no_grad():
        model.table.weight[:] = 0
    assert served.refresh().similar(k=5).is_empty()


def test_equal_vectors_are_equally_similar_whatever_is_asked_beside() -> None:
    model = ServedTowers()
    served = serve(log(), model)
    with torch.no_grad():
        model.table.weight[10:20] = model.table.weight[10]
    served.refresh()
    frame = served.similar(k=9).filter(pl.col("what").is_in(served.items.ids(range(10, 20)).to_list()))
    assert frame["score"].n_unique() == 1


@pytest.mark.parametrize("by", ["vectors", "co_occurrence"])
def test_it_alters_nothing_where_items_are_left_out(by: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row by row where they are few, else by a catalogue of their own."""
    model = ServedTowers()
    served = serve(log(), model)
    with torch.no_grad():
        model.table.weight[7] = 0
    served.refresh()
    found = []
    for few in (0, 1024):
        monkeypatch.setattr(module, "_FEW", few)
        found.append([served.similar(k=8, by=by, block=[2, 3]), served.similar(k=8, by=by, allow=[*range(5, 25)])])
    assert all(one.equals(other) for one, other in zip(*found, strict=True))
    assert not {2, 3} & set(found[0][0]["similar"])


def test_what_one_request_makes_serves_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve(log())
    wanted = {by: served.similar([1], k=3, by=by) for by in ("vectors", "co_occurrence")}
    monkeypatch.setattr(Catalogue, "__init__", None)
    monkeypatch.setattr(Cosine, "__init__", None)
    monkeypatch.setattr("recgraph.evaluate.rerank.distinct", None)
    for by, frame in wanted.items():
        assert served.similar([1], k=3, by=by).equals(frame)
        served.similar([1], k=3, by=by, block=[2])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"items": [1, 4711]}, "items: 4711 is not known to the model"),
        ({"items": []}, "items is empty: name at least one"),
        ({"items": ["x"]}, r"items = \['x'\] are texts, but the log's ids are integers; give ids such as"),
        ({"items": ["1"]}, r"items = \['1'\] are texts, but the log's ids are integers; write 1$"),
        ({"block": [1, None]}, r"block = .*: give a list of item ids: place 1 \(from 0\) has no id"),
        ({"k": 0}, "k = 0 must be at least 1"),
        ({"by": "cosine"}, "by"),
        ({"allow": [4711]}, "allow and block leave no item"),
    ],
)
def test_mistakes_name_the_argument(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        serve(log()).similar(**asked)
