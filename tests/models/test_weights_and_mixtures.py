"""Weights, mixtures, debiased objectives, schedules and queues on models of both lines, by configuration."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from collaborative_cases import first_batch, made
from test_metapath_models import SETTINGS, small

import recgraph as rg
from recgraph.contrast.mixing import Mochi
from recgraph.contrast.term import ContrastiveTerm
from recgraph.data.part import Part
from recgraph.models.base import Space, TrainableModel
from recgraph.models.collaborative.contrastive import SGL
from recgraph.models.contrast import stream
from recgraph.models.heterogeneous.heco import HeCo
from recgraph.models.heterogeneous.meow import MEOW
from recgraph.models.sequence.contrastive import CL4SRec
from recgraph.ranks import Ranks
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged

COSINE: dict[str, Any] = {"similarity": "cosine", "temperature": 0.5}
INFO_NCE: dict[str, Any] = {**COSINE, "objective": "info_nce"}
BOTH: dict[str, Any] = {**INFO_NCE, "objective_options": {"both_directions": True}}
CHANGES: dict[str, dict[str, Any]] = {
    "hardness": {"weight": "hardness"},
    "hardest": {"weight": "hardness", "weight_options": {"beta": 0.0, "hardest": 0.3}},
    "propensity": {"weight": "propensity"},
    "false_negative": {"weight": "false_negative", "weight_options": {"threshold": 0.1, "popularity": 0.3}},
    "same_cluster": {"weight": "same_cluster", "weight_options": {"n_clusters": [2]}},
    "mochi": {"mixture": "mochi"},
    "feature_transformation": {"mixture": "feature_transformation"},
    "debiased": {"objective": "debiased_info_nce"},
    "debiased and hard": {"objective": "debiased_nt_xent", "weight": "hardness"},
    "schedule": {"temperature_schedule": "cosine", "temperature_end": 0.1, "temperature_epochs": 4},
}


def sequences() -> Part:
    draw = torch.Generator().manual_seed(5)
    lengths = torch.randint(2, 10, (24,), generator=draw)
    return Part(Ragged.from_lengths(torch.randint(0, 30, (int(lengths.sum()),), generator=draw), lengths), 30)


def loss_of(line: str, settings: dict[str, Any], epoch: int = 1) -> float:
    """The terms of a step, summed; all gradients are finite."""
    model, batch = step_of(line, settings, epoch)
    model.train()
    total = torch.stack(list(model(batch, list(model.phases[0].terms)).values())).sum()
    total.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    assert gradients
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)
    return float(total.detach())


def step_of(line: str, settings: dict[str, Any], epoch: int = 1) -> tuple[TrainableModel, Any]:
    if line == "cl4srec":
        model = CL4SRec(hidden_dim=16, max_len=8, inner_dim=32, **settings).build(Space(n_users=24, n_items=30), 0)
        return model, next(iter(model.batches(sequences(), 12, Generators(0)).epoch(epoch)))
    if line == "meow":
        nodes = MEOW(**SETTINGS, n_clusters=(4, 8), **settings).build(small())
        return nodes, next(iter(nodes.batches(None, 40, Generators(3)).epoch(epoch)))
    pairs = made(line, **settings, **({"n_clusters": (2, 3)} if line == "meowrec" else {}))
    return pairs, first_batch(pairs, epoch=epoch)


@pytest.mark.parametrize(("line", "change"), list(product(("cl4srec", "simgcl", "meowrec", "meow"), CHANGES)))
def test_on_every_line(line: str, change: str) -> None:
    base = {**INFO_NCE, **({"weight": None} if line.startswith("meow") else {})}
    found = loss_of(line, {**base, **CHANGES[change]})
    assert torch.tensor(found).isfinite()
    assert found != pytest.approx(loss_of(line, base), rel=1e-6)


@pytest.mark.filterwarnings("ignore:same_category = 0.4 changes nothing")  # of users
@pytest.mark.parametrize("line", ["meow", "meowrec"])
def test_categories_of_a_graph_say_who_may_be_a_positive(line: str) -> None:
    settings = {**INFO_NCE, "weight": "false_negative"}
    options = {"threshold": 0.99, "same_category": 0.4}
    found = loss_of(line, {**settings, "weight_options": options})
    assert found != pytest.approx(loss_of(line, {**settings, "weight_options": {"threshold": 0.99}}), rel=1e-6)


@pytest.mark.parametrize("line", ["cl4srec", "simgcl", "meowrec"])
def test_a_queue_on_every_line(line: str) -> None:
    """A step that follows another has its rows for candidates; MEOW's batches have a queue of their own."""
    settings = {**INFO_NCE, "queue_size": 64, **({"weight": None} if line == "meowrec" else {})}
    model, batch = step_of(line, settings)
    model.train()
    queues = [part for part in model.modules() if type(part).__name__ == "Queue"]
    assert all(bool((queue.ids == -1).all()) for queue in queues)
    torch.stack(list(model(batch, list(model.phases[0].terms)).values())).sum().backward()
    assert all(bool((queue.ids >= 0).any()) for queue in queues)
    assert len(queues) == (1 if line == "cl4srec" else 2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: made("sgl", **INFO_NCE, queue_size=8), "queue_size = 8 adds candidates, and candidates = 'all'"),
        (lambda: made("simgcl", **COSINE, objective="nt_xent", queue_size=8), "objective = 'nt_xent' contrasts two"),
        (lambda: step_of("cl4srec", {"objective": "info_nce", "queue_size": 8}), "use similarity='cosine'"),
        (lambda: step_of("cl4srec", {**INFO_NCE, "queue_size": 8, "gather_negatives": False}), "gives each rows"),
        (
            lambda: step_of(
                "cl4srec", {"objective": "swav", "objective_options": {"queue": 8}, "gather_negatives": False}
            ),
            "objective_options queue = 8: a queue is the same",
        ),
        (lambda: HeCo(metapaths=SETTINGS["metapaths"], queue_size=8).build(small()), "HeCo contrasts all nodes"),
        (lambda: CL4SRec(temperature_schedule="linear"), "'linear' needs temperature_end"),
        (lambda: CL4SRec(queue_size=8, **BOTH), "with queue_size = 8 some .* use queue_size = 0, or leave"),
        (lambda: MEOW(metapaths=SETTINGS["metapaths"], mini_batch=True, **BOTH), "use queue_size = 0, or leave"),
        (lambda: SGL(**BOTH), "with candidates = 'all' some .* use candidates = 'batch', or leave"),
        (lambda: HeCo(metapaths=SETTINGS["metapaths"], **BOTH), "HeCo contrasts both views with one another already"),
    ],
)
def test_what_does_not_fit_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_run_resumes_with_its_queue_and_mixtures(tmp_path: Path) -> None:
    """Two epochs at once, and one after a stop, end with the same weights; the bundle recommends the same."""
    rows = sequences().items
    columns = {"user": rows.rows.tolist(), "item": rows.values.tolist(), "timestamp": range(len(rows.values))}
    log = rg.Interactions.from_frame(pl.DataFrame(columns), user="user", item="item", timestamp="timestamp")
    split = log.split("leave-one-out")
    settings = {**INFO_NCE, "queue_size": 32, "mixture": "mochi", "mixture_options": {"hardest": 8}}
    schedule = {"temperature_schedule": "linear", "temperature_end": 0.2, "temperature_epochs": 2}
    how: dict[str, Any] = {"seed": 0, "batch_size": 8, "metric": "last", "device": "cpu", "progress": False}

    def model() -> CL4SRec:
        return CL4SRec(hidden_dim=16, max_len=8, inner_dim=32, **settings, **schedule)

    whole = rg.fit(model(), split, max_epochs=2, **how)
    rg.fit(model(), split, max_epochs=1, out=tmp_path / "run", **how)
    resumed = rg.fit(model(), split, max_epochs=2, out=tmp_path / "run", resume=True, **how)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=0, atol=0)
    served = rg.load(tmp_path / "run" / "bundle")
    assert isinstance(served.model.contrast.mixture, Mochi)
    users = [0, 3, 7]
    assert served.recommend(users, k=3).equals(resumed.recommend(users, k=3))


def test_ranks_draw_apart_for_rows_of_their_own() -> None:
    """What ranks have in common is drawn alike; draws for rows of their own would bring the common stream apart."""
    term = ContrastiveTerm(objective="info_nce", mixture="mochi")
    both = [Generators(0, ranks=Ranks(index, 2)) for index in range(2)]
    alike, apart = ([stream(term, one, of_rank=own) for one in both] for own in (False, True))
    assert [generator is one["contrast"] for generator, one in zip(alike, both, strict=True)] == [True, True]
    seeds = [generator.initial_seed() for generator in (*alike, *apart) if generator is not None]
    assert seeds[0] == seeds[1]
    assert len(set(seeds)) == 3
    assert stream(term, Generators(0), of_rank=True) is not None
    assert stream(ContrastiveTerm(), both[0]) is None
