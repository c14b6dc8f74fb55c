"""Re-ranked lists are served and measured alike, and the protocol says what picked them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from test_recommender import serve
from test_rules import features, log
from torch import Tensor

from recgraph.config import ConfigError
from recgraph.data.item_columns import ItemColumns
from recgraph.data.part import Cases, Part
from recgraph.evaluate import Protocol, evaluate
from recgraph.evaluate.hits import RankedHits
from recgraph.evaluate.metrics.base import Metric
from recgraph.evaluate.ranking import item_vectors_of
from recgraph.evaluate.rerank import MMR
from recgraph.models.base import Model
from recgraph.models.closed_form.linear import EASE
from recgraph.serve.recommender import Recommender
from recgraph.serve.rules import Rules
from recgraph.serve.vectors import encode_items
from recgraph.sparse.ragged import Ragged

RERANKERS: list[Any] = [
    "mmr",
    {"name": "mmr", "strength": 0.6, "pool": 12, "similarity": "co_occurrence"},
    {"name": "contrastive_search", "strength": 0.2, "history": 3},
    {"name": "dpp", "strength": 0.5},
    {"name": "dpp", "strength": 0.3, "columns": ["genre"]},
]


class Listed(Metric):
    """Keeps the lists that it is asked to measure."""

    name = "listed"
    needs_truth = False
    needs = frozenset({"items"})
    lists: list[list[int]]

    def compute(self, ranked: RankedHits, k: int) -> Tensor:
        Listed.lists = ranked.first_items(k).tolist()
        return torch.zeros(len(ranked), dtype=torch.float64)


def served(model: Any = None) -> Recommender:
    data = log(n_users=12, n_items=40).with_features(item_features=features())
    return serve(data, model, item_features=data.item_features)


def measured(made: Recommender, rerank: Any, k: int, **more: Any) -> Any:
    """A result of the first k of everyone's lists, without what was seen."""
    truth = Ragged.from_lists([[row] for row in range(len(made.users))])
    cases = Cases(torch.arange(len(made.users)), made.seen, truth, len(made.items))
    columns = ItemColumns(made.items, made.item_features, "what")
    (result,) = evaluate(
        made.model,  # type: ignore[arg-type]
        cases,
        seen=("exclude",),
        metrics=[Listed(), "ndcg"],
        cutoffs=(k,),
        rerank=rerank,
        fit_part=Part(made.seen, len(made.items)),
        item_columns=columns,
        **more,
    )
    return result


@pytest.mark.parametrize("rerank", RERANKERS, ids=str)
def test_what_is_measured_is_what_is_served(rerank: Any) -> None:
    made = served()
    found = made.recommend(users=made.users.values, k=7, rules={"rerank": rerank})
    result = measured(made, rerank, 7)
    for row, user in enumerate(made.users.values.to_list()):
        assert made.items.ids(Listed.lists[row]).to_list() == found.filter(who=user)["what"].to_list()
    plain = measured(made, None, 7)
    assert json.loads(result.protocol.rerank)["name"] == (rerank if isinstance(rerank, str) else rerank["name"])
    assert plain.protocol.rerank == ""
    assert result.hash != plain.hash
    assert Protocol.of(result.protocol.model_dump(mode="json")).hash == result.hash
    # the scores beside the lists are the model's
    whole = made.recommend(users=made.users.values, k=len(made.items))
    keys = ["who", "what", "score"]
    assert found.select(keys).join(whole.select(keys), on=keys).height == found.height


def test_strength_0_and_the_shorthand() -> None:
    made = served()
    users = made.users.values
    plain = made.recommend(users=users, k=8)
    assert made.recommend(users=users, k=8, rules={"rerank": {"name": "dpp", "strength": 0}}).equals(plain)
    short = made.recommend(users=users, k=8, rules={"diversity": {"weight": 0.4, "pool": 20}})
    assert not short.equals(plain)
    long = {"rerank": {"name": "mmr", "strength": 0.4, "pool": 20}}
    assert made.recommend(users=users, k=8, rules=long).equals(short)
    assert made.recommend(users=users, k=8, rules=Rules(rerank=MMR(strength=0.4, pool=20))).equals(short)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="diversity and rerank are one setting"):
        Rules.of(diversity=0.3, **long)


def test_vectors_are_compared_as_they_were_until_a_refresh(monkeypatch: pytest.MonkeyPatch) -> None:
    made, rules = served(), {"rerank": {"name": "dpp", "strength": 0.9, "pool": 30}}
    encoded = []

    def counted(model: Model) -> Tensor:
        encoded.append(model)
        return encode_items(model)

    monkeypatch.setattr("recgraph.serve.lists.encode_items", counted)
    first = made.recommend(users="all", k=8, rules=rules)
    assert made.recommend(users="all", k=8, rules=rules).equals(first)
    assert encoded == [made.model]
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(4))
    other = made.refresh().recommend(users="all", k=8, rules=rules)
    assert not other.equals(first)
    assert (
        Recommender(made.model, made.users, made.items, made.seen, columns=made.columns)
        .recommend(users="all", k=8, rules=rules)
        .equals(other)
    )


def test_models_without_vectors_compare_by_users_or_features() -> None:
    made = served(EASE())
    made.model.weights.normal_(generator=torch.Generator().manual_seed(1))
    for rerank in ({"name": "mmr", "similarity": "co_occurrence"}, {"name": "dpp", "columns": ["genre"]}):
        assert made.recommend(users="3", k=5, rules={"rerank": rerank}).height == 5
    with pytest.raises(ValueError, match=r"rerank: EASE has no item vectors to compare; .*co_occurrence"):
        made.recommend(users="3", rules={"rerank": "mmr"})
    with pytest.raises(ValueError, match=r"rerank: EASE has no item vectors to compare"):
        measured(made, "mmr", 5)


@pytest.mark.parametrize(
    ("rerank", "message"),
    [
        ("mmrr", r"rerank = 'mmrr': reranker 'mmrr' does not exist; did you mean mmr\?"),
        ({"name": "dpp", "strenght": 1}, r"reranker DPP has no setting strenght; did you mean strength\?"),
        ({"strength": 1}, r"must be a name or have one, as \{name = 'contrastive_search'\}"),
        (3, r"give a name, or a mapping such as"),
        ({"name": "mmr", "columns": ["kind"]}, r"rerank.columns: 'kind' is no column of the item features"),
        ({"name": "mmr", "columns": ["brand"], "separator": ""}, r"separator = '': .*at least 1 character"),
    ],
)
def test_mistakes(rerank: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        served().recommend(users="3", rules={"rerank": rerank})


def test_several_rerankers_are_measured_in_one_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    made = served()
    protocols = [
        Protocol(seen="exclude", cutoffs=(5,), rerank=text)
        for text in ("", *(str(MMR(strength=strength, pool=15)) for strength in (0.0, 0.8)))
    ]
    truth = Ragged.from_lists([[row] for row in range(len(made.users))])
    cases = Cases(torch.arange(len(made.users)), made.seen, truth, len(made.items))
    encoded, lists = [], []

    def counted(model: Any) -> Tensor | None:
        encoded.append(model)
        return item_vectors_of(model)

    monkeypatch.setattr("recgraph.evaluate.reranked.item_vectors_of", counted)
    for chosen in (protocols[:2], protocols):
        results = evaluate(made.model, cases, protocols=chosen, metrics=[Listed(), "ndcg", "mrr"])  # type: ignore[arg-type]
        lists.append(Listed.lists)
    assert results[0].metrics == results[1].metrics
    assert lists[0] != lists[1]
    assert encoded == [made.model, made.model]  # once for each call, whatever the number of protocols
    assert results.titles()[0].startswith("seen excluded ")
    assert results.titles()[2].startswith("seen excluded, mmr")
    with pytest.raises(ValueError, match="metric 'auc' reads the whole ranking, and lists are picked"):
        evaluate(made.model, cases, protocols=protocols[1:], metrics=["auc"])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="ties = 'expectation' is of the whole ranking"):
        measured(made, "mmr", 5, ties="expectation")
    with pytest.raises(ValueError, match="needs the log that the model was fitted on"):
        evaluate(made.model, cases, rerank={"name": "mmr", "similarity": "co_occurrence"})  # type: ignore[arg-type]
