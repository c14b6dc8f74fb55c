"""Stages of a log, from its file to recommendations, on generated logs
(experiments/bench/power_law.py).

Sizes are interactions; users, items and all else grow in proportion. The sizes of stages that
depend on the catalogue alone are items. Trainings are measured on some of an epoch's steps;
LightGCN, each step of which goes over the whole graph, takes a hundredth of the interactions as a
batch, so that an epoch has as many steps at every size.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench import power_law
from experiments.bench.growth import Stage

INTERACTIONS = (1_000_000, 10_000_000, 50_000_000)
SMALLER = (100_000, 1_000_000, 10_000_000)
ITEMS = (10_000, 100_000, 500_000)
#: below 20,000 items an index compares all, and there is nothing to build
INDEXED = (30_000, 100_000, 500_000)
WIDTH, SASREC_BATCH, LIGHTGCN_STEPS = 32, 1024, 100
SASREC: dict[str, Any] = {
    "hidden_dim": WIDTH,
    "max_len": 20,
    "dropout": 0.1,
    "encoder": {"inner_dim": 2 * WIDTH, "attention_dropout": 0.1},
    "loss": {"name": "sampled_softmax", "n_negatives": 512},
}
LIGHTGCN: dict[str, Any] = {"hidden_dim": WIDTH, "n_layers": 2}
_STEPS, _LIGHTGCN_MEASURED, _RANKED, _RECOMMENDED = 30, 5, 1024, 4096


def stages() -> list[Stage]:
    logs = partial(Stage, sizes=INTERACTIONS, unit="interactions")
    files = partial(logs, counted="bytes unpacked", count=_file_bytes)
    return [
        files("ingest", run=_ingest, prepare=partial(_file, suffix=".parquet")),
        # a table of texts outgrows the caches where one of integers does not
        files("ingest-texts", run=_ingest, prepare=partial(_file, suffix=".parquet", texts=True)),
        files("ingest-csv", sizes=SMALLER, run=_ingest, prepare=partial(_file, suffix=".csv")),
        logs("k-core", run=_k_core, prepare=_log),
        logs("split", run=_split, prepare=_log),
        logs("split-files", run=_split_files, prepare=_split_of),
        logs("sasrec-epoch", run=_some_steps, prepare=_sasrec),
        logs(
            "lightgcn-epoch",
            run=_some_steps,
            prepare=_lightgcn,
            counted="bytes moved",
            count=_lightgcn_bytes,
        ),
        Stage("ranking-exact", ITEMS, "items", _rank, partial(_ranking, ann=False)),
        Stage("ann-build", INDEXED, "items", _build_ann, _item_model),
        Stage("ranking-ann", ITEMS, "items", _rank, partial(_ranking, ann=True)),
        logs("recommend-all-ann", run=_recommend, prepare=_recommender),
    ]


def _file(rows: int, suffix: str, texts: bool = False) -> Path:
    import recgraph.data.log  # noqa: F401, imported before the clock starts

    return power_law.kept(rows, suffix, texts=texts)


def _ingest(path: Path) -> Any:
    from recgraph.data.split import load_data

    return load_data(path, **power_law.NAMES)


def _file_bytes(path: Path) -> float:
    """The bytes of a file's columns, unpacked; dictionaries of ids save less of a log with more
    ids.
    """
    if path.suffix != ".parquet":
        return path.stat().st_size
    import pyarrow.parquet

    footer = pyarrow.parquet.read_metadata(path)
    return float(
        sum(footer.row_group(number).total_byte_size for number in range(footer.num_row_groups))
    )


def _log(rows: int) -> Any:
    return _ingest(_file(rows, ".parquet"))


def _k_core(log: Any) -> None:
    log.k_core(users=10, items=20)


def _split(log: Any) -> None:
    """What a training does before its first batch: split, hash, the handle without test rows, the
    training part.
    """
    # a copy has nothing kept from a run before
    sealed = dataclasses.replace(log).split("leave-one-out").sealed()
    assert sealed.train.n_interactions


def _split_of(rows: int) -> Any:
    return _log(rows).split("leave-one-out")


def _split_files(split: Any) -> None:
    from recgraph.data.split import SealedSplit

    folder = Path(tempfile.mkdtemp(prefix="recgraph-growth-"))
    try:
        split.save(folder)
        assert SealedSplit.load(folder).train.n_interactions
    finally:
        shutil.rmtree(folder)


def _train_part(rows: int) -> Any:
    """The training part alone, of a split that is forgotten."""
    return _split_of(rows).sealed().train


@dataclasses.dataclass(frozen=True)
class _Training:
    """A built model, its batches, how many steps are made, and the targets of an epoch."""

    model: Any
    batches: Any
    config: Any
    generators: Any
    steps: int
    targets: int


def _training(
    name: str, settings: dict[str, Any], part: Any, batch_size: int, steps: int, targets: int
) -> _Training:
    from experiments.bench.ours.training import NextBatches
    from recgraph import registry
    from recgraph.models.base import Space
    from recgraph.rng import Generators
    from recgraph.train.config import TrainConfig

    model = registry.load("model", name)(**settings)
    model.build(Space(n_users=part.n_users, n_items=part.n_items), seed=0)
    generators = Generators(0)
    batches = NextBatches(model.batches(part, batch_size, generators), contrastive=False)
    sparse = bool(model.row_sparse_tables)
    config = TrainConfig.of(
        {
            "batch_size": batch_size,
            "max_epochs": 1,
            "metric": "loss",
            "patience": None,
            "sparse_tables": sparse,
        }
    )
    return _Training(model, batches, config, generators, steps, targets)


def _sasrec(rows: int) -> _Training:
    part = _train_part(rows)
    targets = int((part.items.lengths - 1).clamp(min=0, max=SASREC["max_len"]).sum())
    return _training("SASRec", SASREC, part, SASREC_BATCH, _STEPS, targets)


def _lightgcn(rows: int) -> _Training:
    part = _train_part(rows)
    batch_size = -(-part.n_interactions // LIGHTGCN_STEPS)
    return _training(
        "LightGCN", LIGHTGCN, part, batch_size, _LIGHTGCN_MEASURED, part.n_interactions
    )


def _lightgcn_bytes(training: _Training) -> float:
    """What the sparse products and Adam of an epoch move, wherever a row that they read lies."""
    from experiments.bench import work

    return work.step(training.model, None).n_bytes * LIGHTGCN_STEPS


def _some_steps(training: _Training) -> float:
    from recgraph.train.trainer import Trainer

    training.batches.next(training.steps)
    Trainer(training.model, training.batches, training.config, training.generators).fit()
    return training.batches.counts["targets"] / training.targets


def _item_model(n_items: int) -> Any:
    """A model that is not trained: the vectors of users and items are random."""
    import faiss  # noqa: F401, imported before the clock starts

    from recgraph import registry
    from recgraph.models.base import Space

    return registry.load("model", "BPRMF")(hidden_dim=WIDTH).build(
        Space(n_users=_RANKED, n_items=n_items), seed=0
    )


def _build_ann(model: Any) -> Any:
    from recgraph.serve.ann import AnnIndex

    return AnnIndex.build(model)


def _ranking(n_items: int, ann: bool) -> Callable[[], None]:
    """Ranks for 1,024 users with 20 seen items each."""
    import torch

    from recgraph.data.batches import Query
    from recgraph.evaluate.ranking import catalogue_for, rank
    from recgraph.sparse.ragged import Ragged

    model = _item_model(n_items)
    drawn = torch.randint(n_items, (_RANKED, 20), generator=torch.Generator().manual_seed(0))
    seen = Ragged.from_lengths(drawn.view(-1), torch.full((_RANKED,), 20))
    query = Query(torch.arange(_RANKED), seen)
    if ann:
        index = _build_ann(model)
        return lambda: index.rank(model, query, seen, 10)
    catalogue = catalogue_for(model, n_items, 10)

    def exact() -> None:
        for _ in rank(model, catalogue, query, seen, ("exclude",)):
            pass

    return exact


def _rank(ranking: Callable[[], None]) -> None:
    ranking()


def _recommender(rows: int) -> Any:
    """A recommender with an index over its items, and users at random, as the first ones of a log
    are its busiest.
    """
    from recgraph import registry
    from recgraph.models.base import Space
    from recgraph.serve.recommender import Recommender

    log = _log(rows)
    model = registry.load("model", "SASRec")(**SASREC).build(
        Space(n_users=log.n_users, n_items=log.n_items), seed=0
    )
    chosen = np.random.default_rng(0).permutation(log.n_users)[: 2 * _RECOMMENDED]
    return Recommender.for_log(model.eval(), log).use_ann(), log.users.ids(chosen)


def _recommend(prepared: Any) -> float:
    """The lists of some users, part by part, written as Parquet."""
    from recgraph.data.row_files import replace_parts

    recommender, users = prepared
    with tempfile.TemporaryDirectory() as folder:
        parts = recommender.stream(users, batch_size=_RECOMMENDED)
        replace_parts(parts, Path(folder) / "lists.parquet", "parquet")
    return len(users) / len(recommender.users)
