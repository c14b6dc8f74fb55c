"""Items that nobody has had yet, on real data: a tenth of MovieLens-100k's films, held out with all their ratings."""

from __future__ import annotations

from pathlib import Path

import torch

from recgraph.data.batches import Query
from recgraph.data.interactions import Interactions
from recgraph.data.part import Part
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.models.heterogeneous.meow import MEOWRec
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged


def test_new_films_are_ranked_by_their_genres(shared: Path) -> None:
    log = Interactions.read(shared / "data" / "ml-100k")
    is_new = _tenth(log)
    everything = log.ordered.items
    train = Part(everything.filter(~is_new[everything.values]), log.n_items)
    truth = everything.filter(is_new[everything.values])
    graph = HeteroGraph.from_interactions(log, train, item_relations={"class": "genre"}, user_relations=["occupation"])
    model = MEOWRec(hidden_dim=32, contrast_weight=0.01).build(
        GraphSpace(n_users=log.n_users, n_items=log.n_items, graph=graph), 0
    )
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    generators, weights = Generators(0), model.phases[0].terms
    batches = model.batches(train, 8192, generators)
    for epoch in range(2):
        for batch in batches.epoch(epoch):
            optimiser.zero_grad()
            terms = model(batch, weights)
            torch.stack([weights[term] * value for term, value in terms.items()]).sum().backward()
            optimiser.step()
    assert not bool(model.known_items[is_new].any())
    model.eval()
    with torch.no_grad():
        scores = model.score(Query(torch.arange(log.n_users), train.items))[:, is_new]
    assert _mean_area(scores, truth, is_new) > 0.6  # chance is .5


#: what each model needs to be small
SMALL = {"sasrec": {"max_epochs": 3}, "mclrec": {"max_epochs": 1}}


def _tenth(log: Interactions) -> torch.Tensor:
    """[n_items] bool: a tenth of the films."""
    is_new = torch.zeros(log.n_items, dtype=torch.bool)
    is_new[torch.randperm(log.n_items, generator=torch.Generator().manual_seed(0))[: log.n_items // 10]] = True
    return is_new


def _mean_area(scores: torch.Tensor, truth: Ragged, is_new: torch.Tensor) -> float:
    """Over the users who rated one of the films; [n_users, new films] scores."""
    wanted = torch.zeros(truth.n_rows, len(is_new), dtype=torch.bool)
    wanted[truth.rows, truth.values] = True
    wanted = wanted[:, is_new]
    areas = [_area(scores[user], wanted[user]) for user in range(truth.n_rows) if wanted[user].any()]
    assert len(areas) > 900
    return sum(areas) / len(areas)


def _area(scores: torch.Tensor, wanted: torch.Tensor) -> float:
    """The share of pairs of a wanted and another film that are in order."""
    above = scores[wanted][:, None] - scores[~wanted]
    return float(((above > 0).double() + 0.5 * (above == 0)).mean())
