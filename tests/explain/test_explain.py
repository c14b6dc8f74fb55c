"""Explanations of users: the hand-worked graph, every kind of model, errors, rows and the page."""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from small_graph import INTERACTIONS, every_path, small_graph
from small_recommender import FEATURES, ITEMS, SETTINGS, USERS, recommender

import recgraph as rg
from recgraph.data.ids import IdMap
from recgraph.explain.explanation import Evidence, Explanation
from recgraph.explain.nodes import nearest
from recgraph.explain.page import history_rows, recommendation_rows, walk, why_lines, why_rows
from recgraph.sparse.ragged import Ragged


@pytest.fixture(scope="module")
def found() -> Explanation:
    return rg.explain.explain(recommender(**SETTINGS), "ann", k=3)


def evidence(found: Explanation, item: str) -> dict[tuple[str, str], Evidence]:
    (each,) = (each for each in found.recommendations if each.item.id == item)
    return {(one.side, one.path): one for one in each.evidence}


def test_history_and_recommendations(found: Explanation) -> None:
    """Ann had A and B; the rest are C, D and E."""
    assert [each.item.id for each in found.history] == ["A", "B"]
    assert [each.item.title for each in found.history] == ["Alien", "Brazil"]
    assert all(each.fitted for each in found.history)
    assert found.history[1].item.fields == {"genres": ("sf", "tense")}
    assert {each.item.id: each.item.title for each in found.recommendations} == {"C": "Cube", "D": "D", "E": "E"}
    assert [each.rank for each in found.recommendations] == [1, 2, 3]
    scores = [each.score for each in found.recommendations]
    assert scores == sorted(scores, reverse=True)
    assert found.related == {}
    assert (found.model, found.dataset, found.user, found.notes) == ("MEOWRec", None, "ann", ())
    assert json.loads(json.dumps(found.to_dict()))["user"] == "ann"


def test_a_user_without_a_history() -> None:
    """The error proposes nothing that an explanation does not take."""
    served = recommender("sasrec", [pair for pair in INTERACTIONS if pair[0] != 3], hidden_dim=8)
    with pytest.raises(
        ValueError, match="user = 'dan' has no history, from which SASRec could recommend; explain another"
    ):
        rg.explain.explain(served, "dan", k=2)


def test_earlier_names(found: Explanation) -> None:
    assert (found.views, found.about) == (found.path_weights, found.related)
    assert list(found.to_dict()) == [
        "model",
        "dataset",
        "user",
        "about",
        "history",
        "recommendations",
        "views",
        "notes",
    ]


def test_attention_and_parts(found: Explanation) -> None:
    for side in ("user", "item"):
        assert sum(each.weight for each in found.path_weights if each.side == side) == pytest.approx(1)
    for each in found.recommendations:
        assert sum(part.value for part in each.parts) == pytest.approx(each.score, abs=1e-6)
        assert {(part.side, part.path) for part in each.parts} == {
            ("", ""),
            *((weight.side, weight.path) for weight in found.path_weights),
        }


def test_evidence_by_hand(found: Explanation) -> None:
    genre = evidence(found, "C")["item", "item-genre-item"]
    # A shares one genre with C, B shares two: PathSim 2/3 and 1
    assert genre.count == 3
    assert genre.score == pytest.approx((2 / 3 + 1) / 2)
    assert (genre.rank, genre.n_ranked) == (1, 3)
    first, second = genre.connections
    assert (first.via.title, first.similarity, first.count) == ("Brazil", 1.0, 2)
    assert (second.via.title, second.count) == ("Alien", 1)
    # sf leads to three items, tense to four: the more specific genre first
    assert [walk(path) for path in first.paths] == [
        "user ann > Brazil > sf > Cube",
        "user ann > Brazil > tense > Cube",
    ]
    # users: bob shares A with ann, cat shares B; each had two or three items: PathSim 2/(2+2) and 2/(2+3)
    alike = evidence(found, "C")["user", "user-item-user"]
    assert alike.count == 2
    assert alike.score == pytest.approx(1.0)
    assert {(each.via.id, each.count) for each in alike.connections} == {("bob", 1), ("cat", 1)}
    assert evidence(found, "D")["user", "user-item-user"].score == pytest.approx(0.4 / (0.4 + 0.5))
    assert [walk(path) for path in alike.connections[0].paths] == ["user ann > Alien > user bob > Cube"]
    # dan is ann's one friend and had E alone
    friends = evidence(found, "E")
    assert friends["user", "user-user"].count == 1
    assert friends["user", "user-user"].score == 1
    assert ("item", "item-user-item") not in friends
    assert evidence(found, "D").keys() == {
        ("user", "user-item-user"),
        ("item", "item-genre-item"),
        ("item", "item-user-item"),
    }


def test_the_number_of_paths_is_that_of_all_walks(found: Explanation) -> None:
    graph = small_graph()
    for each in found.recommendations:
        for one in each.evidence:
            path = f"user-{one.path}" if one.side == "item" else f"{one.path}-item"
            index = ITEMS.index(each.item.id)
            nodes = [walk_ for walk_ in every_path(graph, path, 0) if walk_[-1] == index]
            # a walk that comes back to where the meta-path began is none
            place = (1, -1) if one.side == "item" else (0, -2)
            nodes = [walk_ for walk_ in nodes if walk_[place[0]] != walk_[place[1]]]
            assert one.count == len(nodes), one.path
            through = Counter(ITEMS[w[1]] if one.side == "item" else USERS[w[-2]] for w in nodes)
            assert {c.via.id: c.count for c in one.connections} == dict(through.most_common(3))


def test_nearest_items(found: Explanation) -> None:
    vectors = recommender(**SETTINGS).model.encode_items().detach().double()
    cosines = torch.nn.functional.cosine_similarity(vectors[:, None], vectors[None], dim=-1).fill_diagonal_(-2)
    for each in found.recommendations:
        row = cosines[ITEMS.index(each.item.id)]
        assert [near.node.id for near in each.nearest] == [ITEMS[i] for i in row.argsort(descending=True)[:4].tolist()]
        assert each.nearest[0].similarity == pytest.approx(float(row.max()), abs=1e-6)
        assert {near.node.id for near in each.nearest if near.seen} == {"A", "B"}
        assert {near.node.id for near in each.nearest_seen} == {"A", "B"}
    assert len(found.history[0].nearest) == 4


def test_items_that_were_not_fitted_to() -> None:
    whole = recommender(**SETTINGS)
    whole.seen = Ragged.from_lists([[0, 1, 3], [0, 2], [1, 2, 3], [4]])
    found = rg.explain.explain(whole, "ann", k=5)
    assert [each.fitted for each in found.history] == [True, True, False]
    assert {each.item.id for each in found.recommendations} == {"C", "E"}
    # places are among what is not in the history
    assert evidence(found, "C")["item", "item-genre-item"].n_ranked == 2


@pytest.mark.parametrize(("fitted_on", "fitted"), [(None, None), ("train", None), ("train+valid", True)])
def test_without_meta_paths_a_bundle_may_not_know_what_was_fitted_to(
    fitted_on: str | None, fitted: bool | None
) -> None:
    """It holds what users did in both parts, not which was which."""
    whole = recommender("itemknn")
    whole.record = {} if fitted_on is None else {"fitted_on": fitted_on}
    found = rg.explain.explain(whole, "ann", k=2)
    assert [each.fitted for each in found.history] == [fitted] * 2
    shown = "unknown" if fitted is None else fitted
    assert [row["fitted to"] for row in history_rows(found, 5)] == [shown] * 2
    cells = re.findall(r"<td>(yes|no|unknown)</td>", rg.explain.page(found))
    assert cells == ["unknown" if fitted is None else "yes"] * 2


def test_a_user_who_has_friends_alone() -> None:
    """Dan did nothing; his friend Ann had A and B."""
    without = [(user, item) for user, item in INTERACTIONS if user != 3]
    found = rg.explain.explain(recommender(**SETTINGS, interactions=without), "dan", k=5)
    assert found.history == ()
    assert sum(part.value for part in found.recommendations[0].parts) == pytest.approx(found.recommendations[0].score)
    first_paths = {
        each.item.id: [walk(one.connections[0].paths[0]) for one in each.evidence] for each in found.recommendations
    }
    assert first_paths == {
        "A": ["user dan > user ann > Alien"],
        "B": ["user dan > user ann > Brazil"],
        "C": [],
        "D": [],
        "E": [],
    }
    assert "No path of the graph connects it with the user." in rg.explain.page(found)
    assert "   no path of the graph connects it with the user" in list(why_lines(found))


@pytest.mark.parametrize("name", ["itemknn", "ease", "popularity", "lightgcn", "sasrec"])
def test_models_without_meta_paths_show_what_was_had_together(name: str) -> None:
    whole = recommender(name)
    found = rg.explain.explain(whole, "ann", k=2)
    assert found.path_weights == ()
    assert "no meta-paths" in found.notes[0]
    for each in found.recommendations:
        assert each.parts == ()
        assert {one.path for one in each.evidence} <= {"item-user-item"}
        assert bool(each.nearest) == whole.model.has_vectors
    if not whole.model.has_vectors:
        assert "no item vectors" in found.notes[1]
        with pytest.raises(ValueError, match="ranks by scores alone and has no item vectors"):
            rg.explain.item_map(whole)
    text = rg.explain.page(found)
    assert "no meta-paths" in text
    assert list(why_lines(found))


def test_meta_paths_that_take_no_part_in_the_scores() -> None:
    found = rg.explain.explain(recommender(**SETTINGS, recommend_by="interactions"), "ann", k=1)
    assert "recommend_by='interactions'" in found.notes[0]
    assert [part.path for part in found.recommendations[0].parts] == [""]
    assert found.recommendations[0].evidence


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sasrec", {"hidden_dim": 8, "item_graph": "meta_paths"}),
        ("meowrec", {**SETTINGS, "loss": "ccl"}),
    ],
)
def test_scores_that_are_no_sums_over_paths(name: str, settings: dict[str, Any]) -> None:
    """Of a sequence model with a graph of items, and by cosines: the meta-paths do take part in the scores."""
    found = rg.explain.explain(recommender(name, **settings), "ann", k=1)
    assert found.path_weights
    assert found.recommendations[0].parts == ()
    assert len(found.notes) == 1
    assert "has no parts of scores by meta-path" in found.notes[0]


def test_the_user_has_the_id_of_the_log() -> None:
    whole = recommender("sasrec", hidden_dim=8)
    whole.users = IdMap(pl.Series([10, 20, 30, 40]))
    for given in (10, 10.0, np.int64(10)):
        assert json.loads(json.dumps(rg.explain.explain(whole, given, k=1).to_dict()))["user"] == 10


def test_a_user_who_has_had_everything() -> None:
    everything = [*INTERACTIONS, *((0, item) for item in range(5) if (0, item) not in INTERACTIONS)]
    whole = recommender("sasrec", everything, hidden_dim=8)
    found = rg.explain.explain(whole, "ann", attribution=["leave_one_out"])
    assert (len(found.history), found.recommendations) == (5, ())
    assert "Recommendations for user ann" in rg.explain.page(found)
    assert rg.explain.attribute(whole, "ann") == ()


def test_features_that_are_named_as_columns_of_the_tables_or_are_no_values() -> None:
    whole = recommender("sasrec", hidden_dim=8)
    columns = {
        "rank": pl.Series([70, 71, 72, 73]),
        "price": pl.Series([float("nan")] * 4),
        "text": pl.Series([[0.25, 0.5]] * 4),
        "picture": pl.Series([[0.25, 0.5]] * 4, dtype=pl.Array(pl.Float32, 2)),
    }
    titles = pl.Series("title", ["Cube", "", "Brazil", None])
    whole.item_features = FEATURES.with_columns(titles, **columns)
    found = rg.explain.explain(whole, "ann", k=3)
    assert [each.item.title for each in found.history] == ["A", "Brazil"]
    rows = recommendation_rows(found)
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert {row["rank (feature)"] for row in rows} <= {None, 70, 71, 72, 73}
    assert list(found.history[0].item.fields) == ["genres", "rank", "price"]
    assert found.history[0].item.fields["price"] is None
    assert "NaN" not in json.dumps(found.to_dict())
    assert rg.explain.item_map(whole).feature == "genres"


def test_rows(found: Explanation) -> None:
    rows = recommendation_rows(found)
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert all(list(row) == ["rank", "item", "title", "genres", "score"] for row in rows)
    reasons = list(why_rows(found))
    assert len({tuple(row) for row in reasons}) == 1
    assert len(reasons) == sum(len(each.evidence) for each in found.recommendations)
    first, *others = found.recommendations
    bare = list(why_rows(replace(found, recommendations=(replace(first, evidence=()), *others))))
    assert list(bare[0]) == list(reasons[0])
    assert [bare[0][name] for name in ("rank", "item", "score", "meta-path", "adds")] == [
        1, first.item.id, first.score, None, None
    ]  # fmt: skip
    assert bare[1:] == reasons[len(first.evidence) :]


def test_nearest_among_ties() -> None:
    vectors = torch.randint(-1, 2, (60, 3), generator=torch.Generator().manual_seed(0)).double()
    units = torch.nn.functional.normalize(vectors, dim=1)
    for k in (0, 1, 7, 59, 80):
        for row, found in enumerate(nearest(vectors, torch.arange(60), k)):
            there = [other for other in range(60) if other != row and vectors[other].any()]
            cosines = {other: round(float(units[row] @ units[other]), 9) for other in there}
            best = sorted(there, key=lambda other, by=cosines: (-by[other], other))[:k] if vectors[row].any() else []
            assert [cosines[other] for other, _ in found] == [cosines[other] for other in best]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"user": "anne"}, "user = 'anne' is not among the 4 users of this run; the nearest are 'ann'"),
        ({"k": 0}, "k = 0 must be at least 1"),
        ({"n_paths": 0}, "n_paths = 0 must be at least 1"),
        ({"n_near": -1}, "n_near = -1 must be at least 0"),
    ],
)
def test_mistakes(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        rg.explain.explain(recommender(**SETTINGS), **{"user": "ann", **settings})


def test_runs_without_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder"):
        rg.explain.explain(tmp_path / "none", "ann")
    (tmp_path / "record.json").write_text("{}")
    with pytest.raises(ValueError, match="has no bundle: it has not finished"):
        rg.explain.explain(tmp_path, "ann")
    with pytest.raises(ValueError, match="run is of type int, which has no users"):
        rg.explain.explain(3, "ann")


def test_from_a_bundle_the_same(tmp_path: Path, found: Explanation) -> None:
    recommender(**SETTINGS).save(tmp_path / "bundle")
    again = rg.explain.explain(tmp_path, "ann", k=3)
    assert again.to_dict() == found.to_dict()
