"""Time gaps inside every sequence model: inputs, gradients, evaluation, serving and bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from refusing import refused
from small_settings import with_small

import recgraph as rg
from recgraph import registry
from recgraph.data.batches import Query, gap_buckets
from recgraph.data.part import Part
from recgraph.models.base import Space
from recgraph.models.sequence.base import SequenceModel
from recgraph.rng import Generators
from recgraph.sparse.device import accelerator_path
from recgraph.sparse.ragged import Ragged
from recgraph.train.phases import freeze_all_but, total_loss

NAMES = [name for name in registry.names("model") if issubclass(registry.load("model", name), SequenceModel)]
SMALL = {"hidden_dim": 8, "encoder.n_layers": 1, "encoder.inner_dim": 12, "max_len": 4}
N_USERS, N_ITEMS = 20, 12


def frame() -> pl.DataFrame:
    draw = torch.Generator().manual_seed(0)
    rows = []
    for user in range(N_USERS):
        time = 0
        for item in torch.randint(N_ITEMS, (7,), generator=draw).tolist():
            time += int(torch.randint(1, 10_000, (1,), generator=draw))
            rows.append((user, item, time))
    return pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")


LOG = rg.Interactions.from_frame(frame(), user="user", item="item", timestamp="time")
TRAIN = Part(LOG.ordered.items, LOG.n_items, times=LOG.ordered.times)


def made(name: str, **settings: Any) -> SequenceModel:
    cls = registry.load("model", name)
    model: SequenceModel = cls(**with_small(cls, SMALL, settings))
    return model


def built(name: str, device: torch.device | str = "cpu", **settings: Any) -> SequenceModel:
    return made(name, **settings).build(Space(n_users=LOG.n_users, n_items=LOG.n_items), 0).to(device)


def trained(model: SequenceModel, device: torch.device | str = "cpu") -> SequenceModel:
    batches = model.batches(TRAIN, 8, Generators(0, device))
    groups = model.train().parameter_groups()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.05)
    for batch in batches.epoch(0):
        for phase in model.phases:
            optimiser.zero_grad()
            with freeze_all_but(groups, phase.groups):
                total_loss(model(batch.to(device), tuple(phase.terms)), phase).backward()
            optimiser.step()
    return model.eval()


def query(times: bool = True) -> Query:
    """A user without a history, and one with a history longer than max_len."""
    history = Ragged.from_lists([[0, 1], [], [2, 3, 4, 5, 6, 7], [4]])
    when = Ragged.from_lists([[0, 100], [], [0, 1, 50, 900, 901, 5000], [9]])
    return Query(torch.tensor([0, 1, 2, -1]), history, when if times else None)


@pytest.mark.parametrize("name", NAMES)
def test_an_input_is_the_sum_of_item_and_gap(name: str) -> None:
    """By an encoder that is called for one row at a time with a table made for that row."""
    model = trained(built(name, time_gaps=True)).double()
    asked = query()
    assert asked.times is not None
    with torch.no_grad():
        found = model.encode_users(asked)
        for row in (0, 2, 3):
            items = [int(item) + 1 for item in asked.history.row(row)][-4:]
            gaps = gap_buckets(asked.times).row(row).tolist()[-4:]
            table = [model.item_embedding.weight[0]]
            for item, gap in zip(items, gaps, strict=True):
                table.append(model.item_embedding.weight[item] + model.gap_embedding.weight[gap])  # type: ignore[union-attr]
            tokens = Ragged.from_lists([[*range(1, len(items) + 1), *[0] * model.encoder.ends_masked]])
            torch.testing.assert_close(model.encoder(tokens, torch.stack(table))[0], found[row])


def test_training_reads_what_serving_reads(tmp_path: Path) -> None:
    split = LOG.split("leave-one-out")
    run = rg.fit(made("sasrec", time_gaps=True), split, seed=0, max_epochs=3, learning_rate=0.05, progress=False)
    known = run.recommend(users=list(range(N_USERS)), k=5)
    run.save(tmp_path / "bundle")
    again = rg.load(tmp_path / "bundle")
    assert again.recommend(users=list(range(N_USERS)), k=5).equals(known)
    assert again.recommend(users="all", k=5).equals(known)
    # as new users with the same history: the same lists; without times: others
    log = split.sealed().interactions
    shown = again.recommend(histories=log.to_frame(), k=5)
    assert shown.drop("user").equals(known.drop("user"))
    without = again.recommend(histories=log.to_frame().drop("time"), k=5)
    assert not without["score"].equals(known["score"])
    lists = log.to_frame().group_by("user", maintain_order=True).agg("item")
    plain = dict(lists.iter_rows())
    assert again.recommend(histories=plain, k=5)["score"].equals(without["score"])
    dates = log.to_frame().with_columns(pl.from_epoch("time"))
    with refused("times"):
        again.recommend(histories=dates)
    # the test part too is ranked with times, as of the whole history
    result = run.evaluate("test", seen="keep", cutoffs=(N_ITEMS,), metrics=("mrr",))[0]
    cases = split.test
    with torch.no_grad():
        scores = run.model.score(Query(cases.users, cases.history, cases.times))
    ranks = (scores > scores.gather(1, cases.truth.values[:, None])).sum(1) + 1
    assert result["mrr@12"] == pytest.approx(float((1 / ranks).mean()))


# Times inside the encoders that read them: batches, views, queries, recommendations, refusals


WITH_TIMES: dict[str, Any] = {"encoder": {"time_bias": True}}
CASES = [
    ("hstu", WITH_TIMES),
    ("fuxialpha", WITH_TIMES),
    ("mclrec", {"encoder": {"name": "hstu", "time_bias": True}}),
    ("duorec", {"encoder": {"name": "fuxi", "time_bias": True}}),
]


@pytest.mark.parametrize(("name", "settings"), CASES)
@pytest.mark.parametrize("time_gaps", [False, True])
def test_times_are_learnt_and_change_the_scores(name: str, settings: dict[str, Any], time_gaps: bool) -> None:
    model = trained(built(name, **settings, time_gaps=time_gaps))
    assert model.reads_times
    asked = query()
    assert asked.times is not None
    with torch.no_grad():
        found, unknown = model.score(asked), model.score(query(times=False))
        with accelerator_path():
            torch.testing.assert_close(model.score(asked), found, rtol=1e-4, atol=1e-5)
    assert torch.equal(found[1], unknown[1])  # no history
    assert not torch.allclose(found[2], unknown[2])
    with pytest.raises(ValueError):
        model.padded_form()
    with pytest.raises(ValueError):
        model.reading(asked.take(torch.tensor([2]))).inputs()


def test_a_log_without_times_is_refused() -> None:
    with refused("time_bias"):
        built("hstu", **WITH_TIMES).batches(Part(TRAIN.items, TRAIN.n_items), 8, Generators(0))
