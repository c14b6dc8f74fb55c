"""Cold items of MovieLens-100K: are films without interactions ranked by their genres, and what
does that cost others?

    python experiments/cold_items.py OUT.json [--model sasrec] [--seeds 0 1 2] [--variants id
    dropout=0.5 features]

Each run is appended to OUT.json when it is done; what is there already is not made again. Variants:
``none`` (no features), ``id`` (own vectors and features), ``dropout=P`` (the same with
``items.id_dropout=P``), ``features`` (no vectors of their own); ``+year`` behind one of them adds
the year to the genres.

For each seed two tenths of the films are drawn, one to choose settings by (valid) and one to report
(test). Neither has an interaction in training. Each user's events are ordered by time. Of the first
four fifths, those with the other films are the training part and the history. The drawn films of
the last fifth are what is to be found, among the films of their draw alone (168 candidates); users
without any are left out. The epoch is chosen by NDCG@10 on the users' last training items
(leave-one-out), never by cold films. Equal scores count with their exact expectation. Beside the
models:

- ``popularity``: counts in training, 0 for every cold film: all are tied, which is chance;
- ``genres``: the mean cosine of a film's genres with those of the films in the history, without
  learning;
- ``oracle``: how often the users choose each film in the truth itself, an upper bound of what is
  not personal.

What features give on all films, leave-one-out, is a board's to say: ``items = { features =
["genres", "year"] }``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

import recgraph as rg
from recgraph import registry
from recgraph.data.catalog import load_dataset
from recgraph.data.item_features import ItemFeatures
from recgraph.data.part import Cases
from recgraph.evaluate import evaluate
from recgraph.evaluate.frames import ScoreMatrix
from recgraph.evaluate.protocol import Protocol
from recgraph.evaluate.results import Result
from recgraph.evaluate.significance import over_users
from recgraph.files import write_text
from recgraph.sparse.ragged import Ragged
from recgraph.train.record import provenance

METRICS = ("ndcg", "recall")
TRAINING = {"max_epochs": 30, "patience": 5, "progress": False}


def settings_of(variant: str) -> dict[str, Any]:
    """The settings of a model that a variant stands for."""
    name, plus, _ = variant.partition("+")
    if name == "none":
        return {}
    found: dict[str, Any] = {"features": ["genres", "year"] if plus else ["genres"]}
    if name == "features":
        found["id_embedding"] = False
    elif name.startswith("dropout="):
        found["id_dropout"] = float(name.removeprefix("dropout="))
    elif name != "id":
        raise ValueError(
            f"variant {variant!r} must be none, id, dropout=P or features, with +year or without"
        )
    return {"items": found}


class Cold:
    """The data of one draw: a log without the cold films, and the cases of both draws."""

    def __init__(self, seed: int) -> None:
        data = load_dataset("ml-100k")
        draw = torch.randperm(data.n_items, generator=torch.Generator().manual_seed(seed))
        tenth = data.n_items // 10
        self.drawn = {"valid": draw[:tenth], "test": draw[tenth : 2 * tenth]}
        is_cold = torch.zeros(data.n_items, dtype=torch.bool)
        is_cold[draw[: 2 * tenth]] = True
        ordered = data.ordered
        items = ordered.items
        is_past = items.positions < (items.lengths * 4 // 5)[items.rows]
        kept = is_past & ~is_cold[items.values]
        frame = pl.DataFrame(
            {
                "user_id": data.users.ids(items.rows[kept]),
                "item_id": data.items.ids(items.values[kept]),
                "timestamp": ordered.times[kept].numpy(),
            }
        )
        log = rg.Interactions.from_frame(
            frame, user="user_id", item="item_id", timestamp="timestamp"
        )
        self.log = log.with_ids(items=data.items.values).with_features(
            item_features=data.item_features
        )
        # the same events in the new log's indices
        user_of = torch.from_numpy(self.log.users.index(data.users.values))
        item_of = torch.from_numpy(self.log.items.index(data.items.values))
        self.cases, self.candidates = {}, {}
        for part, chosen in self.drawn.items():
            wanted = torch.zeros(data.n_items, dtype=torch.bool)
            wanted[chosen] = True
            future = items.filter(~is_past & wanted[items.values])
            users = ((future.lengths > 0) & (user_of >= 0)).nonzero().flatten()
            truth = future.take(users)
            own = user_of[users]
            history = self.log.ordered.items.take(own)
            self.cases[part] = Cases(
                own, history, truth.with_values(item_of[truth.values]), self.log.n_items
            )
            row = item_of[chosen].tolist()
            self.candidates[part] = Ragged.from_lists([row] * len(users))

    def evaluate(self, model: Any, part: str) -> Result:
        """NDCG@10 and recall@10 among the cold films of a draw."""
        protocol = Protocol(
            split="cold films",
            part=f"cold {part}",
            fitted_on="past of other films",
            history="past of other films",
            candidates="lists",
            ties="expectation",
            cutoffs=(10,),
        )
        return evaluate(
            model,
            self.cases[part],
            protocols=[protocol],
            metrics=METRICS,
            candidate_lists=self.candidates[part],
        )[0]

    def baselines(self, part: str) -> dict[str, Tensor]:
        """[n_users, n_items] scores by name."""
        cases, n_users = self.cases[part], self.log.n_users
        counts = torch.bincount(self.log.ordered.items.values, minlength=self.log.n_items)
        asked = torch.bincount(cases.truth.values, minlength=self.log.n_items)
        known = torch.ones(self.log.n_items, dtype=torch.bool)
        made = ItemFeatures.learn(
            self.log.item_features, "item_id", self.log.items, known, ("genres",)
        )
        genres = torch.nn.functional.normalize(made.entries.to_dense().double(), dim=1)
        profiles = torch.zeros(n_users, genres.shape[1], dtype=torch.float64)
        rows = self.log.ordered.items
        profiles.index_add_(0, rows.rows, genres[rows.values])
        return {
            "popularity": counts.double().expand(n_users, -1),
            "genres": profiles @ genres.T,
            "oracle": asked.double().expand(n_users, -1),
        }


def cold(name: str, variant: str, seed: int, made: dict[int, Cold]) -> dict[str, Any]:
    """One run, ranked on both draws."""
    data = made.setdefault(seed, Cold(seed))
    model = registry.load("model", name)(**settings_of(variant))
    run = rg.fit(model, data.log.split("leave-one-out"), seed=seed, **TRAINING)
    found: dict[str, Any] = {}
    for part in ("valid", "test"):
        mine = data.evaluate(run.model, part)
        others = {
            other: data.evaluate(ScoreMatrix(scores), part)
            for other, scores in data.baselines(part).items()
        }
        found[part] = {
            **mine.to_dict(),
            "baselines": {other: result.metrics for other, result in others.items()},
            "against": {
                other: {metric: _comparison(result, mine, metric) for metric in mine.metrics}
                for other, result in others.items()
            },
        }
    return {**run.record.only("best", "best_epoch", "cost"), **found}


def _comparison(a: Result, b: Result, metric: str) -> dict[str, Any]:
    found = over_users(a, b, metric)
    return {
        "difference": found.difference,
        "interval": [found.interval.low, found.interval.high],
        "p_values": found.p_values,
        "n_users": found.n,
    }


def main() -> None:
    """Make the runs that a record does not have yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", nargs="+", default=["sasrec"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", default=["none", "id", "dropout=0.5", "features"])
    given = parser.parse_args()
    record = {"task": "cold", "training": TRAINING, "runs": []}
    if given.out.exists():
        record = json.loads(given.out.read_text(encoding="utf-8"))
    runs: list[dict[str, Any]] = record["runs"]
    done = {(run["model"], run["variant"], run["seed"]) for run in runs}
    made: dict[int, Cold] = {}
    for seed in given.seeds:
        for name in given.model:
            for variant in given.variants:
                if (name, variant, seed) in done:
                    continue
                head = {
                    "model": name,
                    "variant": variant,
                    "seed": seed,
                    "settings": settings_of(variant),
                }
                runs.append({**head, **cold(name, variant, seed, made), "provenance": provenance()})
                write_text(json.dumps(record, indent=1) + "\n", given.out)
                print(name, variant, seed, runs[-1]["test"]["metrics"], flush=True)


if __name__ == "__main__":
    main()
