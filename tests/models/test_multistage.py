"""Multistage models: which stage trains, in whose clusters, and what ranks or embeds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
import torch.nn.functional as F
from collaborative_cases import SPACE, first_batch, planted
from test_metapath_models import PATHS, small
from torch import Tensor

import recgraph as rg
from recgraph import registry
from recgraph.contrast.clustering import kmeans
from recgraph.contrast.same_cluster import SameCluster
from recgraph.data.batches import Query
from recgraph.graph.node_task import NodeSplit, NodeTask
from recgraph.models.base import TrainableModel
from recgraph.models.multistage import Multistage, MultistageNodes
from recgraph.rng import Generators, derive
from recgraph.sparse.ragged import Ragged

BASE = {"hidden_dim": 8}


def two_stages(**settings: Any) -> Multistage:
    model = Multistage(base="SimGCL", base_options=BASE, stages=2, stage_epochs=2, stage_clusters=3, **settings)
    return model.build(SPACE, 4).train()


def loss_in(model: Multistage, epoch: int) -> Tensor:
    return torch.stack(list(model(first_batch(model, epoch=epoch), ["rec", "cl"]).values())).sum()  # type: ignore[arg-type]


def test_the_epoch_says_which_stage_trains() -> None:
    model = two_stages()
    for epoch, number in enumerate((0, 0, 1, 1, 1)):
        model.zero_grad()
        loss_in(model, epoch).backward()
        assert int(model.stage) == number
        trained = [any(p.grad is not None for p in model.of_stage(k).parameters()) for k in range(2)]
        assert trained == [number == 0, number == 1]


def test_a_stage_counts_its_epochs_from_0() -> None:
    """It warms up, and its temperature begins anew."""
    ncl = {**BASE, "n_layers": 2, "warm_up_epochs": 1, "n_clusters": (3,)}
    model = Multistage(base="NCL", base_options=ncl, stages=2, stage_epochs=2, stage_clusters=3).build(SPACE, 4).train()
    found = [float(model(first_batch(model, epoch=epoch), ["proto"])["proto"].detach()) for epoch in range(5)]
    assert [value > 0 for value in found] == [False, True, False, True, True]
    over_time = {"temperature_schedule": "linear", "temperature_end": 0.1, "temperature_epochs": 2}
    model = Multistage(base="SimGCL", base_options={**BASE, "temperature": 0.5, **over_time}, stages=2, stage_epochs=2)
    model.build(SPACE, 4).train()
    for epoch, local in enumerate((0, 1, 0, 1, 2)):
        stage, batch = model.of_stage(model.stage_of(epoch)), first_batch(model, epoch=epoch)
        model._begin(model.stage_of(epoch))
        with torch.random.fork_rng():
            alone = stage(replace(first_batch(model, epoch=epoch), epoch=local), ["cl"])["cl"]
        torch.testing.assert_close(model(batch, ["cl"])["cl"], alone)


def test_a_stage_contrasts_in_the_clusters_of_the_one_before() -> None:
    """The clusters are k-means of its embeddings; the first stage has the weight of its settings."""
    model = two_stages()
    assert model.of_stage(0).contrast_users.weight is None
    model._begin(1)
    with torch.no_grad():
        nodes = model.of_stage(0).eval().nodes()
    for name, rows in zip(("users", "items"), torch.split(nodes, [24, 30]), strict=True):
        weight = getattr(model.of_stage(1), f"contrast_{name}").weight
        assert isinstance(weight, SameCluster)
        found = kmeans(F.normalize(rows, dim=1), 3, seed=derive(4, "clusters", 0))
        assert torch.equal(weight.assignments[0], found.assignments)
    # a model that is loaded within a stage has the clusters that it was saved with
    other = two_stages()
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.of_stage(0).embedding.weight.normal_()
    torch.testing.assert_close(loss_in(other, 2), loss_in(model, 2))


def test_scores_are_the_sum_over_stages() -> None:
    model = two_stages()
    train, _ = planted()
    model.batches(train, 32, Generators(0))
    query = Query(torch.arange(4), train.items.take(torch.arange(4)))
    first = model.eval().of_stage(0).eval().score(query)
    torch.testing.assert_close(model.score(query), first)
    model._begin(1)
    with torch.no_grad():
        torch.testing.assert_close(model.eval().score(query), first + model.of_stage(1).score(query))


@pytest.mark.parametrize(
    ("base", "options"),
    [
        ("cl4srec", {"hidden_dim": 8, "max_len": 6, "inner_dim": 16, "weight": "same_target"}),
        ("meowrec", {"hidden_dim": 8, "n_clusters": (2, 3)}),
    ],
)
def test_a_run_resumes_within_a_stage(base: str, options: dict[str, Any], tmp_path: Path) -> None:
    train, _ = planted()
    columns = {"user": train.items.rows.tolist(), "item": train.items.values.tolist(), "t": range(train.n_interactions)}
    log = rg.Interactions.from_frame(pl.DataFrame(columns), user="user", item="item", timestamp="t")
    how: dict[str, Any] = {"seed": 0, "batch_size": 64, "metric": "last", "device": "cpu", "progress": False}

    def fit(max_epochs: int, **where: Any) -> Any:
        model = Multistage(base=base, base_options=options, stages=2, stage_epochs=1, stage_clusters=2)
        return rg.fit(model, log.split("leave-one-out"), max_epochs=max_epochs, **how, **where)

    whole = fit(3)
    fit(2, out=tmp_path / "run")
    resumed = fit(3, out=tmp_path / "run", resume=True)
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(resumed.model.state_dict()[name], value, rtol=0, atol=0)
    assert rg.load(tmp_path / "run" / "bundle").recommend([0, 5], k=3).equals(whole.recommend([0, 5], k=3))
    assert whole.model.encode_items().shape == (30, 16)


def test_nodes() -> None:
    settings = {"top_k": (4, 6), "n_clusters": (4, 8)}
    model = MultistageNodes(
        metapaths=PATHS, hidden_dim=8, base="MEOW", base_options=settings, stages=2, stage_epochs=1, stage_clusters=2
    )
    run = rg.fit_graph(model, small(), seed=0, max_epochs=2, device="cpu", progress=False)
    vectors = torch.tensor(run.embeddings()["embedding"].to_list())
    assert vectors.shape == (40, 16) == (40, model.embedding_dim)
    torch.testing.assert_close(vectors[:, :8].norm(dim=1), torch.ones(40))
    weight = model.of_stage(1).contrast.weight
    assert isinstance(weight, SameCluster)
    assert torch.equal(weight.assignments, model.clusters_nodes)


def test_stages_of_nodes_learn_from_the_labels_that_their_base_reads() -> None:
    graph = small()
    labels = torch.arange(40) % 3
    task = NodeTask(PATHS[0].split("-")[0], labels, {"20": NodeSplit(*torch.arange(40).split([10, 10, 20]))})

    def fit(**given: Any) -> Any:
        options = {"top_k": (4, 6), "n_clusters": (4, 8), "n_classes": 3}
        stages = {"base": "MEOW", "base_options": options, "stages": 2, "stage_epochs": 1, "stage_clusters": 2}
        model = MultistageNodes(metapaths=PATHS, hidden_dim=8, **stages)
        return rg.fit_graph(model, graph, seed=0, max_epochs=2, device="cpu", progress=False, **given)

    run = fit(task=task, labels="20")
    assert [model.known_labels is not None for model in run.embedder.model.stages] == [True, True]
    assert run.record["data"]["settings"]["labels"]["n_labels"] == 10
    with pytest.raises(ValueError, match="n_classes = 3 learns classes from labels; give task="):
        fit()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Multistage(base="SASRec"),
            "base = 'SASRec' is no model that Multistage trains in stages; use a contr",
        ),
        (lambda: Multistage(base="MEOW"), "base = 'MEOW' is no model that Multistage trains"),
        (lambda: MultistageNodes(metapaths=PATHS, base="SimGCL"), "use 'MEOW', 'AdaMEOW' or 'HeCo'"),
        (
            lambda: MultistageNodes(metapaths=PATHS, hidden_dim=16, base_options={"hidden_dim": 4}),
            "base_options: hidden_dim = 4 is a setting of MultistageNodes itself, which has 16; give it there",
        ),
    ],
)
def test_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_an_unknown_user_is_folded_in_by_every_stage() -> None:
    model = two_stages()
    train, _ = planted()
    model.batches(train, 32, Generators(0))
    model._begin(1)
    query = Query(torch.tensor([-1]), Ragged.from_lists([[1, 4]]))
    with torch.no_grad():
        parts = [model.of_stage(k).eval().encode_users(query) for k in range(2)]
        torch.testing.assert_close(model.eval().encode_users(query), torch.cat(parts, 1))


@pytest.mark.parametrize(
    ("cls", "base", "other"), [(Multistage, "CL4SRec", "SimGCL"), (MultistageNodes, "HeCo", "MEOW")]
)
def test_the_revision_of_the_base_is_part_of_its_own(
    cls: type[Any], base: str, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = {"metapaths": PATHS} if cls is MultistageNodes else {}
    before = {name: cls(base=name, **paths).revision for name in (base, other)}
    loaded = registry.load("model", base)
    monkeypatch.setattr(loaded, "revision", loaded.revision + 1)
    assert cls.revision_of({"base": base}) == cls(base=base, **paths).revision == before[base] + 1
    assert cls.revision_of({}) == cls.revision_of({"base": other}) == before[other]
    with pytest.raises(ValueError, match="model 'nothing' does not exist"):
        cls.revision_of({"base": "nothing"})


def test_a_bundle_of_another_revision_of_the_base_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split = rg.load_dataset("synthetic").split()
    rg.fit(Multistage(base="SimGCL", base_options=BASE), split, seed=0, max_epochs=1, out=tmp_path / "run")
    rg.load(tmp_path / "run")
    monkeypatch.setattr(registry.load("model", "simgcl"), "revision", 7)
    with pytest.raises(ValueError, match="holds revision 1 of Multistage, here it is revision 7"):
        rg.load(tmp_path / "run")


def test_epochs_that_end_before_the_last_stage_are_said(caplog: pytest.LogCaptureFixture) -> None:
    frame = pl.DataFrame({"user": [u for u in range(9) for _ in range(5)], "item": [*range(9)] * 5, "time": range(45)})
    log = rg.Interactions.from_frame(frame, user="user", item="item", timestamp="time")
    settings = {"base": "SimGCL", "base_options": BASE, "stages": 3, "stage_epochs": 2}
    for epochs, said in ((4, ["max_epochs = 4 leaves a part of Multistage untrained: give at least 5"]), (5, [])):
        caplog.clear()
        rg.fit(Multistage(**settings), log, seed=0, device="cpu", max_epochs=epochs)
        assert [each.getMessage() for each in caplog.records if "untrained" in each.getMessage()] == said


def test_what_changes_the_loss_and_for_how_long() -> None:
    def epochs(model: str, **settings: Any) -> int:
        built = registry.load("model", model)(**{**BASE, **settings}).build(SPACE, 0)
        assert isinstance(built, TrainableModel)
        return built.changing_epochs

    schedule: dict[str, Any] = {"temperature_schedule": "linear", "temperature_end": 0.1, "temperature_epochs": 7}
    assert (epochs("bprmf"), epochs("simgcl"), epochs("simgcl", **schedule)) == (0, 0, 7)
    both = {"mixture": "mochi", "mixture_options": {"warm_up": 9}, **schedule}
    for given, wanted in (({}, 9), ({"mixture_options": {"warm_up": 2}}, 7), ({"temperature_schedule": "cosine"}, 9)):
        assert epochs("simgcl", **{**both, **given}) == wanted
    assert epochs("simgcl", objective="swav", objective_options={"queue": 8, "queue_from": 5}) == 5
    for warm_up, wanted in ((4, 7), (8, 8)):
        assert epochs("ncl", n_clusters=(3,), warm_up_epochs=warm_up, **schedule) == wanted
    model = Multistage(base="SimGCL", base_options={**BASE, **schedule}, stages=3, stage_epochs=2)
    assert (model.changing_epochs, model.build(SPACE, 4).changing_epochs) == (4, 2 * 2 + 7)


def test_the_loss_selects_within_the_last_stage() -> None:
    """Those of the stages before are of other candidates; a plateau there ends nothing."""
    graph, options = small(), {"top_k": (4, 6), "n_clusters": (4,)}
    stages = {"base": "MEOW", "base_options": options, "stages": 3, "stage_epochs": 4, "stage_clusters": 2}
    how: dict[str, Any] = {"seed": 0, "device": "cpu", "progress": False, "learning_rate": 1e-9}

    def fit(**given: Any) -> rg.NodeRun:
        return rg.fit_graph(MultistageNodes(metapaths=PATHS, hidden_dim=8, **stages), graph, **how, **given)

    run = fit(patience=2, max_epochs=40)
    assert run.record.best_epoch is not None
    assert run.record.best_epoch > 8
    assert len(run.history) < 40
    assert ["best" in row for row in run.history[:10]] == [False] * 8 + [True] * 2
    assert run.embedder.vectors.shape[1] == 3 * 8
    last = fit(metric="last", max_epochs=10)
    assert (last.record.best_epoch, len(last.history)) == (10, 10)
