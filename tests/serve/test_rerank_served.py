"""Re-ranked lists are served and measured alike, and the protocol says what picked them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from small_serving import log, serve
from test_rules import features
from torch import Tensor

from recgraph.data.item_features import ItemColumns
from recgraph.data.part import Cases, Part
from recgraph.evaluate import Protocol, evaluate
from recgraph.evaluate.hits import RankedHits
from recgraph.evaluate.metrics import Metric
from recgraph.serve.recommender import Recommender
from recgraph.sparse.ragged import Ragged

RERANKERS: list[Any] = [
    "mmr",
    {"name": "mmr", "strength": 0.6, "pool": 12, "similarity": "co_occurrence"},
    {"name": "mmr", "strength": 0.2, "relevance": "probability"},
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
        Listed.lists = ranked.listed().tolist()
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


def test_the_shorthand_is_mmr() -> None:
    made = served()
    short = made.recommend(users="all", k=8, rules={"diversity": 0.4})
    assert made.recommend(users="all", k=8, rules={"rerank": {"name": "mmr", "strength": 0.4}}).equals(short)
    assert not made.recommend(users="all", k=8).equals(short)
