"""Business rules against a slow oracle that walks the full ranking."""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from refusing import refused
from small_serving import log, serve
from torch import Tensor

from recgraph.config import ConfigError
from recgraph.data.part import Cases, Part
from recgraph.data.split import Interactions
from recgraph.evaluate import Protocol, evaluate
from recgraph.evaluate.metrics import Metric, RankedHits
from recgraph.evaluate.ranking import evaluating
from recgraph.evaluate.topk import tie_order
from recgraph.models.closed_form.linear import EASE
from recgraph.serve import rules as rules_file
from recgraph.serve.recommender import Recommender
from recgraph.serve.rules import Boost, Rules
from recgraph.sparse.ragged import Ragged

N_ITEMS = 40


def features(n_items: int = N_ITEMS) -> pl.DataFrame:
    """Items 0 .. n-1; the last three have no row, some have no genre or several, some no margin."""
    rows = n_items - 3
    genres = [["a", "b", "c", "d"][: (i * 7) % 4] if i % 5 else None for i in range(rows)]
    return pl.DataFrame(
        {
            "what": range(rows),
            "genre": genres,
            "brand": [f"brand {i % 3}" for i in range(rows)],
            "tags": ["|".join(f"t{j}" for j in range(i % 3)) for i in range(rows)],
            "margin": [None if i % 4 == 0 else i / 10 for i in range(rows)],
            "factor": [0.5 + i % 3 for i in range(rows)],
            "fresh": [i % 2 == 0 for i in range(rows)],
        },
        schema_overrides={"genre": pl.List(pl.String)},
    )


def served(n_users: int = 12, model: Any = None, tied: bool = False) -> Recommender:
    data = log(n_users=n_users, n_items=N_ITEMS).with_features(item_features=features())
    made = serve(data, model, item_features=data.item_features)
    if tied and model is None:
        with torch.no_grad():
            made.model.table.weight.copy_(made.model.table.weight.round())
    return made


@lru_cache(maxsize=16)
def held_by(served: Recommender, column: str) -> dict[Any, Any]:
    """Item -> its value in a column of the features."""
    frame = served.item_features
    return (
        {}
        if frame is None
        else dict(zip(frame["what"].to_list(), frame[column].to_list(), strict=True))
    )


def values_of(served: Recommender, column: str, item: Any, separator: str | None) -> set[Any]:
    value = held_by(served, column).get(item)
    if value is None:
        return set()
    if separator is not None and isinstance(value, str):
        value = value.split(separator)
    return {one for one in (value if isinstance(value, list) else [value]) if one != ""}


def oracle(
    served: Recommender, whole: pl.DataFrame, user: str, k: int, rules: Rules, exclude_seen: bool
) -> list[tuple[Any, float]]:
    """The list of a user, item by item from all scores; scores and order as the ranking without
    rules defines them, of which ``whole`` are the lists of all items.
    """
    ids = served.items.values.to_list()
    order = tie_order(len(ids), 0).tolist()
    whole = whole.filter(who=user)
    score = dict(zip(whole["what"].to_list(), whole["score"].to_list(), strict=True))
    own = int(served.users.index([user])[0])
    seen = set(served.items.ids(served.seen.row(own)).to_list()) if exclude_seen else set()
    for boost in rules.boost:
        for item in ids:
            held = values_of(served, boost.column, item, rules.separator)
            if boost.value is None:
                change = None if not held else next(iter(held)) * boost.weight
            else:
                change = boost.weight if boost.value in held else None
            if change is not None and boost.how == "add":
                score[item] += change
            elif change is not None:
                score[item] = score[item] * change if score[item] > 0 else score[item] / change
    barred = seen | set(rules.block)
    items = [ids[place] for place in order if ids[place] not in barred]
    if rules.allow is not None:
        items = [item for item in items if item in rules.allow]
    items.sort(key=lambda item: -score[item])  # stable: ties stay in their order

    def fits(item: Any, chosen: list[Any]) -> bool:
        for column, most in rules.max_per.items():
            for value in values_of(served, column, item, rules.separator):
                if (
                    sum(
                        value in values_of(served, column, other, rules.separator)
                        for other in chosen
                    )
                    >= most
                ):
                    return False
        return True

    chosen: list[Any] = []
    mmr = None if rules.reranker is None else rules.reranker.config
    pool = [] if mmr is None else items[: mmr.pool]
    low, high = (
        min((score[i] for i in pool), default=0.0),
        max((score[i] for i in pool), default=0.0),
    )
    while len(chosen) < k:
        best, best_value = None, -float("inf")
        for item in pool:
            if item in chosen or not fits(item, chosen):
                continue
            share = (score[item] - low) / (high - low) if high > low else 1.0
            near = max((similarity(served, item, other) for other in chosen), default=0.0)
            value = (1 - mmr.strength) * share - mmr.strength * near
            if value > best_value:
                best, best_value = item, value
        if best is None:
            best = next((item for item in items if item not in chosen and fits(item, chosen)), None)
        if best is None:
            break
        chosen.append(best)
    return [(item, score[item]) for item in chosen]


@lru_cache(maxsize=16)
def vectors_of(served: Recommender) -> dict[Any, torch.Tensor]:
    """Item -> its vector."""
    return dict(
        zip(served.items.values.to_list(), served.model.encode_items().double(), strict=True)
    )


def similarity(served: Recommender, one: Any, other: Any) -> float:
    """Of vectors; tests/evaluate/test_rerank.py has the others."""
    a, b = (vectors_of(served)[item] for item in (one, other))
    norms = float(a.norm().clamp(min=1e-12) * b.norm().clamp(min=1e-12))
    return float(a @ b) / norms


def check(made: Recommender, rules: Rules, k: int, exclude_seen: bool = True) -> None:
    users = made.users.values.to_list()[:5]
    with evaluating(made.model):
        found = made.recommend(users=users, k=k, rules=rules, exclude_seen=exclude_seen)
        # in the same batch, so that scores have the same last bits
        whole = made.recommend(users=users, k=len(made.items), exclude_seen=False)
        for user in users:
            wanted = oracle(made, whole, user, k, rules, exclude_seen)
            part = found.filter(who=user)
            assert part["what"].to_list() == [item for item, _ in wanted]
            assert part["score"].to_list() == pytest.approx(
                [score for _, score in wanted], rel=1e-12
            )
            assert part["rank"].to_list() == [*range(1, len(wanted) + 1)]


boosts = st.lists(
    st.sampled_from(
        [
            Boost(column="margin", weight=0.5),
            Boost(column="margin", weight=-0.5),
            Boost(column="factor", how="multiply"),
            Boost(column="brand", value="brand 1", weight=2.0),
            Boost(column="genre", value="b", weight=1.5, how="multiply"),
        ]
    ),
    max_size=2,
)
some_rules = st.builds(
    Rules,
    allow=st.none()
    | st.lists(st.integers(0, N_ITEMS - 1), min_size=15).map(lambda some: [*some, 39]),
    block=st.lists(st.integers(0, N_ITEMS - 2), max_size=12),
    boost=boosts,
    max_per=st.dictionaries(
        st.sampled_from(["genre", "brand", "tags"]), st.integers(1, 3), max_size=2
    ),
    separator=st.sampled_from([None, "|"]),
)


@settings(max_examples=25)
@given(rules=some_rules, k=st.integers(1, 45), exclude_seen=st.booleans(), tied=st.booleans())
def test_lists_are_those_of_the_oracle(
    rules: Rules, k: int, exclude_seen: bool, tied: bool
) -> None:
    check(served(tied=tied), rules, k, exclude_seen)


@settings(max_examples=12)
@given(
    rules=some_rules,
    k=st.integers(1, 12),
    weight=st.sampled_from([0.0, 0.3, 0.7, 1.0]),
    pool=st.integers(1, 30),
)
def test_diverse_lists_are_those_of_the_oracle(
    rules: Rules, k: int, weight: float, pool: int
) -> None:
    rerank = {"name": "mmr", "strength": weight, "pool": pool}
    check(served(), rules.model_copy(update={"rerank": rerank}), k)


def test_a_ranking_is_read_to_its_end_where_a_limit_passes_over_most() -> None:
    """The only items of the other genre come last; a list cut to a few times k would miss them."""
    n_items = 600
    frame = pl.DataFrame({"who": ["u"] * 2, "what": [0, 1]})
    data = Interactions.from_frame(frame, user="who", item="what").with_ids(items=range(n_items))
    genres = pl.DataFrame({"what": range(n_items), "genre": ["pop"] * (n_items - 5) + ["jazz"] * 5})
    made = serve(data, item_features=genres)
    with torch.no_grad():
        made.model.table.weight.copy_(torch.linspace(2, 1, n_items)[:, None].expand(-1, 6))
    found = made.recommend(users="u", k=6, rules={"max_per": {"genre": 3}})
    assert found["what"].to_list() == [2, 3, 4, 595, 596, 597]


def test_scores_without_boosts_are_those_of_the_plain_ranking_to_the_last_bit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = served(n_users=30)
    users = made.users.values
    plain = made.recommend(users=users, k=8)
    assert made.recommend(users=users, k=8, rules={"diversity": 0}).equals(plain)
    # in steps of one user at a time, too
    whole = made.recommend(users=users, k=8, rules={"max_per": {"genre": 2}})
    monkeypatch.setattr(rules_file, "_BYTES", 1)
    assert made.recommend(users=users, k=8, rules={"max_per": {"genre": 2}}).equals(whole)


def test_rules_hold_for_histories_and_for_popular_items() -> None:
    made = served()
    rules = {"allow": [*range(20)], "max_per": {"brand": 1}}
    found = made.recommend(
        histories={"x": [1, 2], "y": [999]}, k=10, rules=rules, fallback="popularity"
    )
    for user in ("x", "y"):
        items = found.filter(who=user)["what"].to_list()
        assert len(items) == 3
        assert len({item % 3 for item in items}) == 3
        assert max(items) < 20
    counts = made.popularity
    assert found.filter(who="y")["score"].to_list() == [
        float(counts[int(made.items.index([item])[0])]) for item in found.filter(who="y")["what"]
    ]


def test_models_without_vectors_and_with_other_rerankers() -> None:
    data = log(n_users=12, n_items=N_ITEMS).with_features(item_features=features())
    made = serve(data, EASE(), item_features=data.item_features)
    made.model.weights.normal_(generator=torch.Generator().manual_seed(1))
    check(made, Rules(max_per={"genre": 2}, boost=(Boost(column="margin"),)), 6)
    assert (
        made.recommend(
            users="3", k=5, rules={"rerank": {"name": "mmr", "similarity": "co_occurrence"}}
        ).height
        == 5
    )
    with refused("rerank", "EASE"):
        made.recommend(users="3", rules={"rerank": "mmr"})


@pytest.mark.parametrize(
    ("rules", "name"),
    [
        ({"max_per": {"genre": 0}}, "max_per.genre"),
        ({"boost": {"brand": 1}}, "brand"),
        ({"boost": [{"column": "brand", "value": "brand 7"}]}, "brand 7"),
        ({"boost": [{"column": "margin", "weight": -1, "how": "multiply"}]}, "margin"),
        ({"rerank": {"name": "mmr", "columns": ["kind"]}}, "kind"),
        ({"block": ["x"]}, "x"),
        ({"allow": []}, "allow"),
    ],
)
def test_what_is_wrong_is_named(rules: dict[str, Any], name: str) -> None:
    with refused(name):
        served().recommend(users="3", rules=rules)


def test_rules_are_read_from_files_and_written_as_json(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(
        'block = [1]\n[max_per]\ngenre = 2\n[[boost]]\ncolumn = "margin"\nweight = 0.5\n'
    )
    read = Rules.read(tmp_path / "rules.toml")
    assert read == Rules(
        block=(1,), max_per={"genre": 2}, boost=(Boost(column="margin", weight=0.5),)
    )
    (tmp_path / "rules.json").write_text(json.dumps(read.model_dump(mode="json")))
    assert Rules.read(tmp_path / "rules.json") == read
    (tmp_path / "rules.json").write_text('{"max_per": 3}')
    with refused("rules.json", "max_per", by=ConfigError):
        Rules.read(tmp_path / "rules.json")


# -- re-ranked lists: what is measured is what is served

RERANKERS: list[Any] = [
    "mmr",
    {"name": "mmr", "strength": 0.6, "pool": 12, "similarity": "co_occurrence"},
    {"name": "mmr", "strength": 0.2, "relevance": "probability"},
    {"name": "dpp", "strength": 0.3, "columns": ["genre"]},
]


class Listed(Metric):
    """Keeps the lists that it is asked to measure."""

    name = "listed"
    needs_truth = False
    needs = frozenset({"items"})
    lists: list[list[int]]

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        Listed.lists = ranked.listed().tolist()
        return torch.zeros(len(ranked), dtype=torch.float64)


def measured(made: Recommender, rerank: Any, k: int) -> Any:
    """A result of the first k of everyone's lists, without what was seen."""
    truth = Ragged.from_lists([[row] for row in range(len(made.users))])
    cases = Cases(torch.arange(len(made.users)), made.seen, truth, len(made.items))
    about = {"fit_part": Part(made.seen, len(made.items)), "item_columns": made.item_columns}
    options = {
        "seen": ("exclude",),
        "metrics": [Listed(), "ndcg"],
        "cutoffs": (k,),
        "rerank": rerank,
    }
    (result,) = evaluate(made.model, cases, **options, **about)  # type: ignore[arg-type]
    return result


@pytest.mark.parametrize("rerank", RERANKERS, ids=str)
def test_what_is_measured_is_what_is_served(rerank: Any) -> None:
    made = served()
    found = made.recommend(users=made.users.values, k=7, rules={"rerank": rerank})
    result = measured(made, rerank, 7)
    for row, user in enumerate(made.users.values.to_list()):
        assert (
            made.items.ids(Listed.lists[row]).to_list() == found.filter(who=user)["what"].to_list()
        )
    plain = measured(made, None, 7)
    assert json.loads(result.protocol.rerank)["name"] == (
        rerank if isinstance(rerank, str) else rerank["name"]
    )
    assert plain.protocol.rerank == ""
    assert result.hash != plain.hash
    assert Protocol.of(result.protocol.model_dump(mode="json")).hash == result.hash
    # the scores beside the lists are the model's
    whole = made.recommend(users=made.users.values, k=len(made.items))
    both = found.join(whole, on=["who", "what"])
    assert both.height == found.height
    assert both["score"].to_list() == pytest.approx(
        both["score_right"].to_list(), rel=1e-5, abs=1e-6
    )
