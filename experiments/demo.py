"""From nothing to recommendations on MovieLens 100K: what `make demo` runs.

    python experiments/demo.py [--small]

Gets the data by its card, fits Popularity, EASE, MEOW (as a recommender: on the graph of users,
films, genres and occupations), SASRec and MCLRec, compares them on the test part with seen items
kept and excluded, and recommends films to two users. `--small` trains for a few epochs only: it
shows that everything runs.
"""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Iterator
from typing import Any

import recgraph as rg
from recgraph.data import catalog

DATASET = "ml-100k"
SEED = 7
METRICS = ("ndcg@10", "recall@10", "mrr@10")
# both sequence models have the same sizes, batches and patience; learning rates by NDCG@10 of the
# validation part, one seed: SASRec .1101 at .001 and .1067 at .002; MCLRec .1165 at .002 (beta .1),
# the only one tried
SIZES: dict[str, Any] = {
    "hidden_dim": 64,
    "max_len": 50,
    "dropout": 0.3,
    "encoder": {"attention_dropout": 0.3},
}
SEQUENCES: dict[str, Any] = {"batch_size": 64, "max_epochs": 90, "patience": 10}
TRAINING: dict[str, dict[str, Any]] = {
    "MEOW": {"batch_size": 4096, "max_epochs": 90, "patience": 5, "learning_rate": 1e-2},
    "SASRec": SEQUENCES | {"learning_rate": 1e-3},
    "MCLRec": SEQUENCES | {"learning_rate": 2e-3},
}
SMALL: dict[str, Any] = {"max_epochs": 4, "patience": None}
SHOWN_USERS = (1, 42)


def models() -> Iterator[tuple[str, Any]]:
    """Name and model; those with settings of training are trained by gradients."""
    yield "Popularity", rg.models.Popularity()
    yield "EASE", rg.models.EASE()
    yield "MEOW", rg.models.MEOWRec(recommend_by="interactions", contrast_weight=0.005)
    yield "SASRec", rg.models.SASRec(**SIZES)
    yield "MCLRec", rg.models.MCLRec(**SIZES)


def row(first: str, cells: list[str], width: int = 9) -> str:
    """One line of the table."""
    return f"{first:<11}" + "".join(f"{cell:>{width}}" for cell in cells)


def compare(split: rg.Split, small: bool) -> dict[str, rg.Run]:
    """Fit and test each model; print the table line by line."""
    print(
        "Test part: all items are ranked for every user; what the user has seen is kept or excluded.\n"
    )
    header = row("model", ["kept", "excluded"] * len(METRICS) + ["epochs", "seconds"])
    print(f"{row('', [*METRICS], width=18)}\n{header}\n{'-' * len(header)}", flush=True)
    runs = {}
    for name, model in models():
        start = time.perf_counter()
        trained = name in TRAINING
        own = TRAINING.get(name, {}) | (SMALL if small and trained else {})
        runs[name] = rg.fit(model, split, seed=SEED, **own)
        seconds = time.perf_counter() - start
        results = runs[name].evaluate("test")
        cells = [
            f"{results[seen][metric]:.4f}" for metric in METRICS for seen in ("keep", "exclude")
        ]
        epochs = str(len(runs[name].history)) if trained else ""
        print(row(name, [*cells, epochs, f"{seconds:.1f}"]), flush=True)
    return runs


def recommend(run: rg.Run, data: rg.Interactions) -> None:
    """Ten titled recommendations for two users, after the last films that they rated."""
    films = data.item_features
    assert films is not None
    titles = dict(films.select(data.columns.item, "title").iter_rows())
    genres = dict(films.select(data.columns.item, "genres").iter_rows())
    log = data.to_frame().sort(data.columns.timestamp, maintain_order=True)
    found = run.recommend(users=list(SHOWN_USERS), k=10)
    for user in SHOWN_USERS:
        rated = log.filter(log[data.columns.user] == user)[data.columns.item].to_list()
        print(
            f"\nUser {user} rated {len(rated)} films, at last {'; '.join(titles[item] for item in rated[-4:-1])}."
        )
        print("MCLRec recommends:")
        items = found.filter(found[data.columns.user] == user)[data.columns.item].to_list()
        for rank, item in enumerate(items, 1):
            print(f"  {rank:>2}. {titles[item]:<50} {', '.join(genres[item] or ())}")


def main() -> None:
    """The demo."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--small", action="store_true", help="a few epochs only, to see that everything runs"
    )
    small = parser.parse_args().small

    prepared = catalog.get(DATASET)
    print(f"{prepared.card.acknowledgement.strip()}\n")
    data = rg.load_dataset(DATASET)
    print(f"{data} from {prepared.source}\n")
    split = data.split("leave-one-out")

    # each look at the test part is logged; here the whole table is one
    logging.getLogger("recgraph").setLevel(logging.ERROR)
    runs = compare(split, small)
    if small:
        print(
            "\n(--small: four epochs, far from what the trained models reach; run `make demo` for that)"
        )
    recommend(runs["MCLRec"], data)
    print(NEXT)


NEXT = """
What to try next (the environment is in .venv):
  .venv/bin/recgraph data list                                   what other data there is
  .venv/bin/recgraph models mclrec                               what can be set
  .venv/bin/recgraph train mclrec --dataset ml-100k --out runs/mine --refit --set hidden_dim=128 --seed 1
  .venv/bin/recgraph evaluate runs/mine/selection                test metrics of the fit that chose the epoch
  .venv/bin/recgraph recommend runs/mine --user 1 --with title   ten films, by the fit on everything
  .venv/bin/recgraph train mclrec --data log.csv --out runs/own  your own log: csv, tsv, jsonl or parquet"""


if __name__ == "__main__":
    main()
