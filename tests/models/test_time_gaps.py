"""Time gaps inside every sequence model: inputs, gradients, evaluation, serving and bundles."""

from __future__ import annotations

import datetime as dt
import json
import math
from contextlib import nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from command_line import works
from refusing import refused
from small_settings import with_small

import recgraph as rg
from recgraph import registry
from recgraph.data.batches import N_GAPS, Query
from recgraph.data.part import Part
from recgraph.models.base import Space
from recgraph.models.sequence.base import SequenceModel
from recgraph.rng import Generators
from recgraph.serve.recommender import Recommender
from recgraph.serve.service import Limits, Predictor, RecommendRequest
from recgraph.sparse.device import accelerator_path
from recgraph.sparse.ragged import Ragged
from recgraph.train.phases import freeze_all_but, total_loss

NAMES = [
    name
    for name in registry.names("model")
    if issubclass(registry.load("model", name), SequenceModel)
]
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
    return (
        made(name, **settings).build(Space(n_users=LOG.n_users, n_items=LOG.n_items), 0).to(device)
    )


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
@pytest.mark.parametrize("at", [None, torch.tensor([150, 7, 6000, 9])])
def test_an_input_is_the_sum_of_item_and_gaps(name: str, at: torch.Tensor | None) -> None:
    """By an encoder that is called for one row at a time with a table made for that row."""
    model = trained(built(name, time_gaps=True)).double()
    asked = replace(query(), at=at)
    assert asked.times is not None
    with torch.no_grad():
        found = model.encode_users(asked)
        for row in (0, 2, 3):
            items = [int(item) + 1 for item in asked.history.row(row)][-4:]
            times = [
                *asked.times.row(row).tolist(),
                None if asked.at is None else int(asked.at[row]),
            ]
            gaps = [
                None if one is None or two is None else two - one
                for one, two in pairwise([None, *times])
            ]
            buckets = [0 if gap is None else 1 + math.frexp(gap)[1] for gap in gaps]
            table = [model.item_embedding.weight[0]]
            weights = model.gap_embedding.weight  # type: ignore[union-attr]
            for item, before, behind in zip(
                items, buckets[:-1][-4:], buckets[1:][-4:], strict=True
            ):
                gap = weights[before] + weights[behind and behind + N_GAPS - 1]
                table.append(model.item_embedding.weight[item] + gap)
            tokens = Ragged.from_lists(
                [[*range(1, len(items) + 1), *[0] * model.encoder.ends_masked]]
            )
            torch.testing.assert_close(model.encoder(tokens, torch.stack(table))[0], found[row])


def test_training_reads_what_serving_reads(tmp_path: Path) -> None:
    split = LOG.split("leave-one-out")
    run = rg.fit(
        made("sasrec", time_gaps=True),
        split,
        seed=0,
        max_epochs=3,
        learning_rate=0.05,
        progress=False,
    )
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
        scores = run.model.score(Query(cases.users, cases.history, cases.times, cases.at))
        assert not torch.equal(
            scores, run.model.score(Query(cases.users, cases.history, cases.times))
        )
    ranks = (scores > scores.gather(1, cases.truth.values[:, None])).sum(1) + 1
    assert result["mrr@12"] == pytest.approx(float((1 / ranks).mean()))
    # which the protocol says, and its hash, by which numbers are compared, does not read
    assert cases.at.tolist() == LOG.ordered.times[LOG.ordered.items.offsets[1:] - 1].tolist()
    assert result.protocol.to_dict()["at"] == "first event"
    assert result.protocol.model_copy(update={"at": ""}).hash == result.protocol.hash


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
def test_times_are_learnt_and_change_the_scores(
    name: str, settings: dict[str, Any], time_gaps: bool
) -> None:
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


OF_TIME = [
    ("hstu", WITH_TIMES),
    ("fuxialpha", WITH_TIMES),
    ("sasrec", {"time_gaps": True}),
    ("sasrec", {}),
]


@pytest.mark.parametrize(
    ("name", "settings"), [*OF_TIME, ("hstu", {**WITH_TIMES, "time_gaps": True})]
)
@pytest.mark.parametrize("path", ["host", "accelerator"])
def test_ranking_at_the_events_time_is_what_training_saw(
    name: str, settings: dict[str, Any], path: str
) -> None:
    """The state at each place of a training row is that of its user before the event, asked at the
    event's time.
    """
    model, when = (
        trained(built(name, **settings, max_len=8)).double(),
        TRAIN.items.with_values(LOG.ordered.times),
    )
    with accelerator_path() if path == "accelerator" else nullcontext(), torch.no_grad():
        for batch in model.batches(TRAIN, 8, Generators(0)).epoch(0):
            states = model.encode(batch.sequences, last_only=False)
            ends = [
                (user, end)
                for user in batch.users.tolist()
                for end in range(1, len(when.row(user)))
            ]
            past = [
                Ragged.from_lists([of.row(user)[:end].tolist() for user, end in ends])
                for of in (TRAIN.items, when)
            ]
            at = torch.stack([when.row(user)[end] for user, end in ends])
            asked = Query(torch.tensor([user for user, _ in ends]), *past, at)
            torch.testing.assert_close(model.encode_users(asked), states, rtol=1e-9, atol=1e-9)
            late = model.encode_users(replace(asked, at=at + 10**6))
            assert torch.allclose(late, states) == (not model.reads_times)


@pytest.mark.parametrize(("name", "settings"), OF_TIME)
def test_lists_are_those_of_the_time_of_the_request(
    name: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    model = trained(built(name, **settings))
    Recommender.for_log(model, LOG).save(tmp_path)
    of = rg.load(tmp_path)
    users = of.users.values.to_list()[:3]
    asked = of._request(users, None).query
    assert asked.times is not None or not model.reads_times
    with torch.no_grad():
        scores = [
            model.score(replace(asked, at=torch.tensor(at)))
            for at in ([40_000] * 3, [50_000, 10**7, 0])
        ]
    one, several = (
        of.recommend(users, k=4, at=40_000),
        of.recommend(users, k=4, at=np.array([50_000, 10**7, 0])),
    )
    for frame, wanted in zip((one, several), scores, strict=True):
        for row, user in enumerate(users):
            shown = frame.filter(user=user)
            found = wanted[row][torch.from_numpy(of.items.index(shown["item"]))].tolist()
            assert shown["score"].to_list() == pytest.approx(found, rel=1e-5, abs=1e-6)
    assert one.equals(of.recommend(users, k=4)) == (not model.reads_times)
    assert pl.concat([*of.stream(users, k=4, at=[50_000, 10**7, 0], batch_size=2)])["item"].equals(
        several["item"]
    )
    served = Predictor(of, Limits(), "cafe")
    asked_at = [
        {"users": users, "at": 40_000},
        {"user": users[0], "at": 50_000},
        {"user": users[0]},
    ]
    jobs = [served.prepare(RecommendRequest(k=4, **each)) for each in asked_at]
    assert jobs[0].key == jobs[1].key
    assert (jobs[1].key == jobs[2].key) == (not model.reads_times)
    answers = [json.loads(answer.body)["results"] for answer in served.respond(jobs[:2])]  # type: ignore[union-attr]
    together, alone = (
        [entry["item"] for each in answer for entry in each["items"]] for answer in answers
    )
    assert (together, alone) == (one["item"].to_list(), several["item"].to_list()[:4])
    printed = works(f"recommend {tmp_path} -u {users[0]} -k 4 --at 40000 --format json").stdout
    assert [row["item"] for row in json.loads(printed)] == one["item"].to_list()[:4]


def test_times_of_requests_are_written_as_those_of_the_log() -> None:
    dated = frame().with_columns(pl.from_epoch("time"))
    for data in (dated, dated.with_columns(pl.col("time").dt.to_string("%d.%m.%y %H:%M:%S"))):
        form = None if data is dated else "%d.%m.%y %H:%M:%S"
        log = rg.Interactions.from_frame(
            data, user="user", item="item", timestamp="time", time_format=form
        )
        model = made("sasrec", time_gaps=True).build(
            Space(n_users=log.n_users, n_items=log.n_items), 0
        )
        of = Recommender.for_log(model, log)
        moments: list[Any] = [dt.datetime(2024, 2, 1), "2024-02-01", "2024-02-01T00:00:00Z"]
        for moment in [*moments, *([] if form is None else ["01.02.24 00:00:00"])]:
            assert of.time_of(moment, 2).tolist() == [1706745600 * 10**6] * 2  # type: ignore[union-attr]
        for wrong in ("soon", 17.5, [moments[0]] * 3):
            with refused("at"):
                of.recommend([0, 1], at=wrong)


def test_a_log_without_times_is_refused() -> None:
    with refused("time_bias"):
        built("hstu", **WITH_TIMES).batches(Part(TRAIN.items, TRAIN.n_items), 8, Generators(0))
