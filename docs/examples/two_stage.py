"""Two stages on one screen: candidates of three models, ranked by trees that learn which of them
were chosen next.

python docs/examples/two_stage.py
"""

from __future__ import annotations

import torch
from torch import Tensor

import recgraph as rg
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.evaluate.ranking import Scorer
from recgraph.models.base import Model, Space
from recgraph.models.two_stage import (
    BoostedTrees,
    Features,
    Found,
    above_the_rest,
    best_of,
    last_held_out,
    union,
)

CANDIDATES = 30


def fitted(train: Part) -> list[Model]:
    """The first stage: models that are fitted in one step."""
    space = Space(n_users=train.n_users, n_items=train.n_items)
    made = (rg.models.EASE(), rg.models.ItemKNN(k=20), rg.models.Popularity())
    return [model.build(space).fit(train) for model in made]


class TwoStage(Scorer):
    """Ranks the candidates of all models by a second model, and all other items below them as the
    first model does.
    """

    reads_times = True  # when histories happened says how old they are

    def __init__(self, train: Part) -> None:
        # the last item of each user is held out of what the models are fitted to that give the
        # examples
        inner, cases = last_held_out(train)
        self.models, self.features = fitted(inner), Features(train.n_items).fit(inner)
        query = Query(cases.users, cases.history, cases.times)
        found, _ = self.candidates(query)
        chosen = torch.isin(found.keys, cases.truth.rows * cases.n_items + cases.truth.values)
        rows = found.keys // cases.n_items
        # of users whose next item is among their candidates
        teaches = torch.bincount(rows[chosen], minlength=len(cases))[rows] > 0
        groups = torch.bincount(rows[teaches])
        self.ranker = BoostedTrees()
        self.ranker.fit(
            self.columns(found, query)[teaches], chosen[teaches].float(), groups[groups > 0]
        )
        # what ranks knows all of the training part
        self.models, self.features = fitted(train), Features(train.n_items).fit(train)

    def candidates(self, query: Query) -> tuple[Found, Tensor]:
        """The best items of each model for each user, and the scores of the first model."""
        scores = [model.score(query) for model in self.models]
        able = [model.can_rank(query) for model in self.models]
        found = [
            best_of(one, query, CANDIDATES, can, repeats=False)
            for one, can in zip(scores, able, strict=True)
        ]
        return union(found), scores[0]

    def columns(self, found: Found, query: Query) -> Tensor:
        """What the second stage reads: scores and ranks, how popular the item is, how long the
        history, and ages.
        """
        return torch.cat([found.scores, found.ranks, self.features(found.keys, query)], 1)

    def score(self, query: Query) -> Tensor:
        found, first = self.candidates(query)
        return above_the_rest(first, found.keys, self.ranker.score(self.columns(found, query)))


def main() -> float:
    """Fit both stages; gives NDCG@10 on the test part, seen items excluded."""
    split = rg.load_dataset("synthetic").split("leave-one-out")
    model = TwoStage(split.train)
    results = rg.evaluate.evaluate(model, split.test, seen=("exclude",), cutoffs=(10,))
    return results["exclude"].metrics["ndcg@10"]


if __name__ == "__main__":
    print(f"NDCG@10 {main():.4f}")
