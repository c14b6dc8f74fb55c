"""Trainings with sharded tables, which others start on ranks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from recgraph import registry
from recgraph.data.part import Cases, Part
from recgraph.evaluate.evaluator import evaluate, validation
from recgraph.evaluate.protocol import Protocol
from recgraph.models.base import Space
from recgraph.ranks import Ranks
from recgraph.shards import building_own_rows, built_in_parts, is_sharded, local_rows, own_rows, shard
from recgraph.sparse.ragged import Ragged
from recgraph.train.averaging import Averaging
from recgraph.train.config import TrainConfig
from recgraph.train.trainer import Trainer
from tests.train.ranks_cases import N_ITEMS, N_USERS, SMALL, Case, Result, made, random_train, stopped, trained

LAZY, SHARDED = {"table_optimiser": "lazy_adam"}, {"shard_tables": True}
CASES = {
    "sasrec, sampled softmax": Case("sasrec", {**SMALL, "loss": "sampled_softmax", "n_negatives": 4}),
    "sasrec, bce": Case("sasrec", {**SMALL, "loss": "bce", "n_negatives": 2}),
    "sasrec, clipped": Case("sasrec", {**SMALL, "loss": "bpr", "n_negatives": 2}, {"clip_norm": 0.01}),
    "mclrec": Case("mclrec", {**SMALL, "loss": "sampled_softmax", "n_negatives": 4}, {"weight_decay": 0.01}),
    "gru, accumulated": Case(
        "sasrec",
        {"hidden_dim": 8, "dropout": 0.0, "max_len": 6, "encoder": "gru", "loss": "sampled_softmax", "n_negatives": 4},
        {"accumulate": 2},
    ),
    "masked items": Case(
        "bert4rec", {**SMALL, "loss": "sampled_softmax", "n_negatives": 4, "mask_ratio": 0.4, "window_step": 0.5}
    ),
    "bprmf": Case("bprmf", {"hidden_dim": 8, "l2": 0.1}),
    "row-wise": Case(
        "sasrec",
        {**SMALL, "loss": "sampled_softmax", "n_negatives": 4, "loss_options": {"popularity_power": 0.75}},
        {"table_optimiser": "rowwise_adam", "schedule": "linear"},
    ),
}
RESUMED = CASES["sasrec, sampled softmax"]
STOPPING = {"max_epochs": 3, "batch_size": 5, "metric": "loss"}


def whole(case: Case) -> Case:
    """The same training without sharding."""
    return replace(case, training={**LAZY, **case.training})


def sharded(case: Case) -> Case:
    return replace(case, training={**LAZY, **case.training, **SHARDED})


def halves(trainer: Trainer) -> list[dict[str, Any]]:
    """What a rank holds of each sharded table."""
    found = []
    for name, table in trainer.sharding.tables.items():
        assert is_sharded(table)
        local = local_rows(table)
        state = trainer.optimisers[next(iter(trainer.optimisers))].state[table]
        found.append(
            {
                "name": name,
                "global": tuple(table.shape),
                "rows": tuple(own_rows(table) or ()),
                "local": tuple(local.shape),
                "at most": local.untyped_storage().nbytes() <= 16 * local.shape[1] * local.element_size(),
                "moments": [tuple(value.shape) for value in state.values() if value.ndim],
            }
        )
    return found


def validated(case: Case) -> list[float]:
    """The metric of each epoch; it selects the weights."""
    trainer = made(case)
    part = random_train()
    cases = Cases(torch.arange(part.n_users), part.items.first(part.items.lengths - 1), part.items.last(1), N_ITEMS)
    trainer.validate = lambda: validation(trainer.model, cases, "ndcg@10", seen="exclude", fit_part=part)
    trainer.config = TrainConfig.of({**trainer.config.model_dump(), "metric": "ndcg@10"})
    values = [row["ndcg@10"] for row in trainer.fit()]
    trainer.sharding.gather()
    assert not any(is_sharded(table) for table in trainer.model.parameters())
    assert trainer.stopping.best == max(values)
    return [*values, validation(trainer.model.eval(), cases, "ndcg@10", seen="exclude", fit_part=part)["ndcg@10"]]


N_MANY = 2600
#: lists of three tiles, and of users' own candidates; the whole ranking, under both rules for ties
MEASURED = (
    (
        (
            Protocol(seen="keep", cutoffs=(5, 40)),
            Protocol(seen="exclude", cutoffs=(5, 40)),
            Protocol(seen="keep", cutoffs=(5,), candidates="sampled", n_candidates=30),
        ),
        ("ndcg", "auc", "novelty", "catalogue_coverage"),
    ),
    ((Protocol(seen="exclude", cutoffs=(5,), ties="expectation"),), ("recall", "auc")),
)


def ranked(name: str, seed: int = 0) -> list[dict[str, Any]]:
    """The values of each user, of a model whose vectors are many times equal; sharded where there are ranks."""
    space = Space(n_users=300, n_items=N_MANY)
    drawn = torch.Generator().manual_seed(seed)
    lengths = torch.randint(0, 9, (space.n_users,), generator=drawn)
    items = Ragged.from_lengths(torch.randint(N_MANY, (int(lengths.sum()),), generator=drawn), lengths)
    settings = SMALL if name == "sasrec" else {"hidden_dim": 8}
    model = registry.load("model", name)(loss="bpr", **settings).build(space, seed=seed)
    (table,) = model.row_sparse_tables
    with torch.no_grad():
        weight = model.get_parameter(table)
        weight[100:] = weight[torch.arange(100, len(weight)) % 100]
    part = Part(items, N_MANY)
    model.setup(part)
    truth = Ragged.from_lengths(torch.randint(N_MANY, (3 * space.n_users,), generator=drawn), lengths * 0 + 3)
    cases = Cases(torch.arange(space.n_users), items, truth, N_MANY)
    if Ranks.here().count > 1:
        shard(model, table)
    return [
        {**{f"of users: {name}": values for name, values in result.per_user.items()}, **result.metrics}
        for protocols, metrics in MEASURED
        for result in evaluate(model.eval(), cases, protocols=protocols, metrics=metrics, fit_part=part)
    ]


RANKED = ("sasrec", "bprmf")


def built(name: str) -> dict[str, torch.Tensor]:
    """The state of a model that ranks build in parts, tables sharded as a training does."""
    settings = SMALL if name == "sasrec" else {"hidden_dim": 8}
    model = registry.load("model", name)(loss="bpr", **settings)
    with building_own_rows():
        model.build(Space(n_users=N_USERS, n_items=N_ITEMS), seed=4)
    in_parts = built_in_parts(model)
    assert [*in_parts] == ([*model.row_sparse_tables] if Ranks.here().count > 1 else [])
    Averaging(Ranks.here()).align(model.double())
    for table in in_parts:
        assert len(shard(model, table)) == in_parts[table]
        assert is_sharded(model.get_parameter(table))
    return {
        name: local_rows(value).clone()
        for name, value in {**model.state_dict(), **dict(model.named_parameters())}.items()
    }


def all_sharded(folder: Path) -> dict[str, Any]:
    """All that is looked at on two ranks, as these are slow to start."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {
        "whole": {name: trained(whole(case)) for name, case in CASES.items()},
        "sharded": {name: trained(sharded(case)) for name, case in CASES.items()},
        "validated": validated(sharded(RESUMED)),
        "ranked": {name: ranked(name) for name in RANKED},
        "built": {name: built(name) for name in RANKED},
    }
    trainer = made(sharded(RESUMED))
    for batch in trainer.batches.epoch(0):
        trainer.step(batch)
    found["halves"] = halves(trainer)
    case = replace(sharded(RESUMED), training={**sharded(RESUMED).training, **STOPPING})
    own, moved = replace(case, folder=folder / "two"), replace(case, folder=folder / "two to one")
    found["uninterrupted"] = trained(case)
    found["stopped"] = [stopped(one, rank=1, after=7) for one in (own, moved)]
    found["resumed"] = trained(replace(own, resumes=True))
    found["one to two"] = trained(replace(case, folder=folder / "one to two", resumes=True))
    return found


def alone(case: Case) -> Result:
    assert Ranks.here().count == 1
    return trained(case)
