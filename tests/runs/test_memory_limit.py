"""The limit of memory: the predicted peak is said first, is true of a process, and what is above it is refused."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from command_line import refused, works
from launched import on_ranks

import recgraph as rg
from recgraph import registry
from recgraph.data.split import Split
from recgraph.graph.hetero import HeteroGraph
from recgraph.memory import Estimate, MemoryLimitError, Workload, format_size, memory_limit, parse_size
from recgraph.models.base import ClosedFormModel, Space
from recgraph.models.memory import largest_batch, sample_sizes
from recgraph.ranks import Ranks, is_told
from recgraph.runs.memory import Fit
from recgraph.train.config import TrainConfig
from recgraph.tuning.plan import Plan

LOG = "recgraph.runs.memory"
#: the prediction is never below what is taken, and at most this many times as much
FACTOR = 1.6


def log(n_users: int, n_items: int, longest: int) -> Split:
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(4, longest + 1, (n_users,), generator=draw)
    users = torch.arange(n_users).repeat_interleave(lengths)
    items = torch.randint(n_items, (len(users),), generator=draw)
    frame = pl.DataFrame({"u": users.numpy(), "i": items.numpy(), "t": torch.arange(len(users)).numpy()})
    return rg.Interactions.from_frame(frame, user="u", item="i", timestamp="t").split("leave-one-out")


def graph(n: int) -> HeteroGraph:
    draw = torch.Generator().manual_seed(0)
    pairs = {
        ("paper", "by", "author"): (torch.arange(2 * n) % n, torch.randint(n // 2, (2 * n,), generator=draw)),
        ("paper", "on", "subject"): (torch.arange(n), torch.randint(n // 40, (n,), generator=draw)),
    }
    x = {"paper": torch.rand(n, 64, generator=draw)}
    return HeteroGraph.from_edge_lists({"paper": n, "author": n // 2, "subject": n // 40}, pairs, features=x)


def small() -> Split:
    return log(60, 40, 9)


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("8GiB", 8 * 2**30), ("1.5 MiB", 3 * 2**19), ("16gb", 16 * 10**9), ("512", 512), (2**20, 2**20)],
)
def test_sizes_are_read(text: str | int, n_bytes: int) -> None:
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "8 gigs", "GiB", "-1GiB", "1e3", "0MiB", 0, True])
def test_what_is_no_size_is_refused(text: str | int) -> None:
    with pytest.raises(ValueError, match=r"memory limit .* (is no size|must be above 0).* 8GiB"):
        parse_size(text)


def test_the_largest_moment_counts() -> None:
    estimate = Estimate({"parameters": 100, "optimiser": 200}, {"a step": 50, "a checkpoint": 70})
    assert estimate.peak == 370
    table = estimate.table(1024)
    assert table.splitlines()[-1].split() == ["predicted", "peak", "370", "B", "of", "1.0", "KiB"]
    assert [line.split("  ")[0] for line in table.splitlines()[:2]] == ["parameters", "optimiser"]
    assert "a checkpoint" in table
    assert table.count("the most") == 1
    assert format_size(3 * 2**29) == "1.5 GiB"


def test_the_largest_batch_of_sequences() -> None:
    """Against the samples themselves: as many of each length, and no batch of any order has more tokens."""
    lengths = torch.tensor([2, 5, 9, 1, 0, 30])
    prefixes = [min(length, 8) for n in lengths.tolist() for length in range(1, n)]
    assert torch.equal(sample_sizes(lengths, 8, "prefix"), torch.bincount(torch.tensor(prefixes), minlength=9))
    sequences = [min(n - 1, 8) for n in lengths.tolist() if n > 1]
    assert torch.equal(sample_sizes(lengths, 8, "causal"), torch.bincount(torch.tensor(sequences), minlength=9))
    masked = [min(int(n), 9) for n in lengths if n > 1]
    assert torch.equal(sample_sizes(lengths, 8, "cloze"), torch.bincount(torch.tensor(masked), minlength=10))
    counts = torch.bincount(torch.tensor(prefixes))
    assert largest_batch(counts, 10**6) == sum(prefixes)
    assert largest_batch(counts, 5) == 40  # five of the longest: the bound of few samples
    many = torch.randint(1, 9, (10_000,), generator=torch.Generator().manual_seed(0))
    found = largest_batch(torch.bincount(many), 1000)
    assert max(int(part.sum()) for part in many.split(1000)) <= found <= 1.2 * float(many.float().mean()) * 1000


def test_nothing_is_said_or_refused_without_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger=LOG):
        rg.fit("popularity", small(), seed=0)
    assert not [record for record in caplog.records if record.name == LOG]


def test_it_is_said_before_anything_is_computed(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        rg.fit(rg.models.SASRec(hidden_dim=8), small(), seed=0, max_epochs=1, memory_limit="64GiB")
    first, *rest = [record for record in caplog.records if record.name.startswith("recgraph")]
    assert first.name == LOG
    assert first.getMessage().startswith("predicted memory of sasrec:\nlibrary ")
    for component in ("parameters", "optimiser", "a step", "a validation", "predicted peak"):
        assert component in first.getMessage()
    assert any(record.getMessage().startswith("fit sasrec") for record in rest)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_what_does_not_fit_is_refused_with_what_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    split, batch_size = log(400, 100, 30), 4096
    model = rg.models.SASRec(hidden_dim=128, inner_dim=1024)
    fit = Fit(model, Space(n_users=400, n_items=100), split.train, TrainConfig(batch_size=batch_size))
    # what earlier tests held may be given back at any time
    monkeypatch.setattr("recgraph.runs.fit_split.Fit", partial(Fit, before=fit.before))
    peak = fit.estimate().peak
    limit = peak - 30 * 2**20
    with pytest.raises(MemoryLimitError, match=r"SASRec would take .* a step .*; what fits: batch_size = \d+") as error:
        rg.fit(model, split, seed=0, batch_size=batch_size, memory_limit=limit, out=tmp_path / "run")
    assert not (tmp_path / "run" / "config.json").exists()
    assert model.space is None  # nothing was built
    fits = int(str(error.value).split("batch_size = ")[1].split(",")[0])
    assert 256 <= fits < 400  # most of the sequences, of which a batch of 4,096 has all
    assert fit.fits(limit, batch_size=fits)
    # an eighth more than the largest that fits does not
    assert not fit.fits(limit, batch_size=fits + max(fits // 8, 1))
    rg.fit(model, split, seed=0, batch_size=fits, max_epochs=1, memory_limit=limit + 2**24, out=tmp_path / "run")


def test_each_thread_that_ranks_in_a_validation_takes_as_much() -> None:
    """A tile of scores and what encodes 256 users; vectors of all nodes are made once."""
    split, before = log(400, 3000, 30), torch.get_num_threads()
    space = Space(n_users=split.n_users, n_items=split.n_items)
    taken: dict[str, list[int]] = {}
    try:
        for n in (1, 2):
            torch.set_num_threads(n)
            for model in (rg.models.SASRec(), rg.models.BPRMF()):
                moments = Fit(model, space, split.train, TrainConfig(), lambda: split.valid).estimate().moments
                taken.setdefault(model.key(), []).append(moments["a validation"])
    finally:
        torch.set_num_threads(before)
    tile = 5 * 4 * 128 * (split.n_items + 1024)
    scoring = rg.models.SASRec().memory_needs(work(split, space)).scoring
    assert scoring > 2**20
    assert {name: two - one for name, (one, two) in taken.items()} == {"sasrec": tile + scoring, "bprmf": tile}


@pytest.mark.parametrize("model", [rg.models.SASRec(loss="bpr"), rg.models.BPRMF()])
def test_ranks_with_sharded_tables_take_their_rows_each(model: Any) -> None:
    """Parameters, moments, best weights, checkpoint and catalogue of a validation are those of a part of the table."""
    split, n_items = log(40, 50, 10), 1_000_000
    fit = Fit(
        model,
        Space(n_users=40, n_items=n_items),
        split.train,
        TrainConfig(shard_tables=True, batch_size=8),
        lambda: split.valid,
        saves=True,
    )
    table = 4 * 64 * n_items
    one, four = (replace(fit, n_ranks=n).estimate() for n in (1, 4))
    for name in ("parameters", "optimiser", "best weights"):
        assert one.held[name] - four.held[name] == pytest.approx(one.held[name] * 0.75, rel=0.01)
    for name in ("a checkpoint", "a validation"):
        assert one.moments[name] - four.moments[name] >= 0.75 * table
    # 1 of parameters, 2 of moments, 1 of the best, 2 of a checkpoint or a validation, of a quarter of the table each
    assert four.peak - fit.before < 1.8 * table + 2**28
    assert one.peak - fit.before > 5 * table
    for whole in (replace(fit, n_ranks=4, saves=False), replace(fit, n_ranks=4, begins_whole=True)):
        assert whole.estimate().moments["whole tables"] == pytest.approx(table, rel=0.01)


def test_a_closed_form_says_how_many_items_fit() -> None:
    split = small()
    fit = Fit(rg.models.EASE(), Space(n_users=60, n_items=20_000), split.train, TrainConfig())
    limit = fit.before + 2**30
    assert not fit.fits(limit)
    said = fit.what_fits(limit)
    n_items = int(said.split("at most ")[1].split(" ")[0].replace(",", ""))
    assert fit.fits(limit, n_items=n_items)
    assert not fit.fits(limit, n_items=n_items + n_items // 8)


def test_full_softmax_is_answered_with_a_sample() -> None:
    split, n_items = log(2000, 50, 50), 4_000_000
    model = rg.models.SASRec(hidden_dim=1, n_heads=1, inner_dim=1)
    fit = Fit(model, Space(n_users=2000, n_items=n_items), split.train, TrainConfig(batch_size=1))
    assert "loss = 'sampled_softmax'" in fit.what_fits(fit.estimate().peak - 2**20)


def test_the_limit_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable, which worker processes inherit: it bounds each of them."""
    monkeypatch.setenv("RECGRAPH_MEMORY_LIMIT", "1MiB")
    assert memory_limit() == 2**20
    with pytest.raises(MemoryLimitError, match=r"memory_limit = 1\.0 MiB"):
        rg.fit("popularity", small(), seed=0)
    monkeypatch.setenv("RECGRAPH_MEMORY_LIMIT", "lots")
    with pytest.raises(ValueError, match="'lots' is no size"):
        rg.fit("popularity", small(), seed=0)


def test_a_trial_that_does_not_fit_is_pruned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RECGRAPH_MEMORY_LIMIT", "1MiB")
    study = rg.tune("bprmf", small(), n_trials=2, settings={"max_epochs": 1}, out=tmp_path / "study", test_seeds=0)
    assert [trial.state.name for trial in study.trials] == ["PRUNED", "PRUNED"]
    assert "memory_limit = 1.0 MiB" in study.trials[0].user_attrs["reason"]


def refused_on_one() -> list[tuple[str, bool]]:
    """What is raised where rank 1 alone holds more than fits: by a fit, and by an evaluation."""
    split, model = small(), rg.models.Popularity()
    fitted = rg.fit(model, split, seed=0)
    # rank 0 has 128 MiB to spare
    fit = Fit(rg.models.Popularity(), Space(n_users=split.n_users, n_items=split.n_items), split.train, TrainConfig())
    limit = fit.estimate().peak + 2**27
    held = torch.ones(2**27) if Ranks.here().index else None
    said = []
    for act in (
        lambda: rg.fit(rg.models.Popularity(), split, seed=0, memory_limit=limit),
        lambda: fitted.evaluate("valid", memory_limit=limit),
    ):
        with pytest.raises(MemoryLimitError) as error:
            act()
        said.append((str(error.value), is_told(error.value)))
    assert held is None or len(held)
    return said


def test_what_does_not_fit_on_one_rank_is_refused_by_all_with_one_message() -> None:
    first, second = on_ranks(2, refused_on_one)
    assert first == second
    assert [told for _, told in first] == [True, True]
    assert ["would take" in first[0][0], "which leaves" in first[1][0]] == [True, True]


def test_it_identifies_nothing() -> None:
    """Neither a run's record nor a study knows the limit."""
    runs = [
        rg.fit(rg.models.BPRMF(hidden_dim=4), small(), seed=0, max_epochs=1, memory_limit=limit)
        for limit in (None, "64GiB")
    ]
    ours, theirs = (run.record.to_dict() if hasattr(run.record, "to_dict") else vars(run.record) for run in runs)
    for name in ("config", "training", "data", "seed"):
        assert str(ours[name]) == str(theirs[name])
    assert "memory" not in str(sorted(Plan.__dataclass_fields__))


@pytest.mark.parametrize("name", [name for name, _ in registry.classes("model")])
def test_every_model_has_an_estimate(name: str) -> None:
    """That of the parameters is within a hundredth where they are vectors of users and items."""
    cls = registry.load("model", name)
    split = small()
    if cls.reads_graph or name in registry_of_graphs():
        pytest.skip("tested on graphs")
    space = Space(n_users=split.n_users, n_items=split.n_items)
    needs = Fit(cls(), space, split.train, TrainConfig()).model.memory_needs(work(split, space))
    built = cls().build(space)
    assert needs.parameters == sum(p.nbytes for p in built.parameters())
    if not isinstance(built, ClosedFormModel):
        assert needs.step > 0


def large(model: Any, n_shards: int = 1) -> Any:
    """What a model needs over 200,000 items, whose table is stepped by rows."""
    space = Space(n_users=50, n_items=200_000)
    lengths = torch.full((50,), 20)
    return model.memory_needs(Workload(50, 200_000, lengths, 128, space, n_shards))


def test_a_loss_is_known_however_it_is_written() -> None:
    for written, plain in (("FullSoftmax", "full_softmax"), ("sampled-softmax", "sampled_softmax"), ("BPR", "bpr")):
        for cls in (rg.models.SASRec, rg.models.BPRMF):
            assert large(cls(loss=written)) == large(cls(loss=plain))


def test_a_step_takes_rows_for_each_negative_of_each_target() -> None:
    few, many = (large(rg.models.SASRec(loss="bpr", n_negatives=n)).step for n in (1, 16))
    # 950 targets, and of each row that is touched seven vectors of 64 numbers
    assert many - few > 950 * 15 * 7 * 64 * 4


@pytest.mark.parametrize("cls", [rg.models.SASRec, rg.models.BPRMF, rg.models.UltraGCN])
def test_shared_negatives_take_no_rows_for_each_target(cls: Any) -> None:
    own, shared = (
        large(cls(loss="bce", n_negatives=512, loss_options={"shared": is_shared})).step for is_shared in (False, True)
    )
    assert shared < own / 3


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("cls", [rg.models.SASRec, rg.models.BPRMF])
def test_negatives_count_wherever_their_number_is_set(cls: Any, shared: bool) -> None:
    options = {"shared": shared}
    as_option = large(cls(loss="bce", loss_options={"n_negatives": 2000, **options}))
    assert as_option == large(cls(loss="bce", n_negatives=2000, loss_options=options))
    assert large(rg.models.BPRMF(loss="sampled_softmax")) == large(
        rg.models.BPRMF(loss="sampled_softmax", n_negatives=512)
    ), "the loss's own default"


def test_the_gradients_of_a_model_that_reads_histories_are_dense() -> None:
    """However large the table: a step of SimpleX sums vectors of items, and is not one of rows."""
    needs = large(rg.models.SimpleX(n_negatives=10))
    assert needs.row_tables == 0
    assert needs.step > 2 * needs.parameters


def test_a_step_on_sharded_tables_takes_what_it_takes_on_one() -> None:
    """Beside the table, of which each rank has a part."""
    model = rg.models.SASRec(loss="sampled_softmax")
    rest = [needs.parameters - needs.row_tables + needs.step for needs in (large(model), large(model, n_shards=4))]
    assert rest[1] == pytest.approx(rest[0], abs=2**20)


def test_a_slow_copy_has_dense_gradients() -> None:
    settings = {"loss": "bpr", "objective": "simsiam", "similarity": "cosine"}
    assert large(rg.models.CL4SRec(**settings)).row_tables > 0
    assert large(rg.models.CL4SRec(**settings, target_momentum=0.99)).row_tables == 0


def registry_of_graphs() -> set[str]:
    return {name for name, cls in registry.classes("model") if hasattr(cls, "embed")}


def work(split: Split, space: Space) -> Any:
    return Workload(space.n_users, space.n_items, split.train.items.lengths, 128, space)


PROGRAM = """
import json, sys, torch
sys.path[:0] = json.loads(sys.argv[1])
torch.set_num_threads(1)
import logging, recgraph as rg
from test_memory_limit import LOG, graph, log
name, model, data, training, out = json.loads(sys.argv[2])
said = []
handler = logging.Handler()
handler.emit = lambda record: said.append(record.getMessage())
logging.getLogger(LOG).addHandler(handler)
logging.getLogger(LOG).setLevel(logging.INFO)
made = getattr(rg.models, name)(**model)
if "n" in data:
    rg.fit_graph(made, graph(data["n"]), seed=0, progress=False, out=out, memory_limit="64GiB", **training)
else:
    rg.fit(made, log(**data), seed=0, progress=False, out=out, memory_limit="64GiB", **training)
lines = open("/proc/self/status").read().splitlines()
peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
print(json.dumps([said[0], peak]))
"""
CASES: dict[str, tuple[str, dict[str, Any], dict[str, int], dict[str, Any]]] = {
    "sasrec": (
        "SASRec",
        {},
        {"n_users": 3000, "n_items": 20_000, "longest": 40},
        {"max_epochs": 1, "batch_size": 1024},
    ),
    "mclrec": ("MCLRec", {}, {"n_users": 1500, "n_items": 5000, "longest": 12}, {"max_epochs": 1, "batch_size": 1024}),
    "bert4rec": (
        "BERT4Rec",
        {"mask_ratio": 0.4},
        {"n_users": 3000, "n_items": 20_000, "longest": 90},
        {"max_epochs": 1, "batch_size": 1024},
    ),
    "lightgcn": (
        "LightGCN",
        {},
        {"n_users": 60_000, "n_items": 30_000, "longest": 10},
        {"max_epochs": 1, "batch_size": 16_384, "metric": "loss"},
    ),
    "ultragcn": (
        "UltraGCN",
        {"n_negatives": 2000, "loss_options": {"shared": True}},
        {"n_users": 20_000, "n_items": 20_000, "longest": 10},
        {"max_epochs": 1, "batch_size": 16_384, "metric": "loss"},
    ),
    "ncl": (
        "NCL",
        {"warm_up_epochs": 0, "hidden_dim": 128},
        {"n_users": 10_000, "n_items": 30_000, "longest": 5},
        {"max_epochs": 1, "batch_size": 65_536, "metric": "loss"},
    ),
    "ease": ("EASE", {}, {"n_users": 10_000, "n_items": 4000, "longest": 12}, {}),
    "meow": (
        "MEOW",
        {"metapaths": ["paper-author-paper", "paper-subject-paper"], "n_clusters": [20]},
        {"n": 8000},
        {"max_epochs": 2},
    ),
}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_process_takes_no_more_than_was_predicted(case: str, tmp_path: Path) -> None:
    paths = json.dumps([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    orders = json.dumps([*CASES[case], str(tmp_path / "run")])
    command = [sys.executable, "-c", PROGRAM, paths, orders]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    said, taken = json.loads(done.stdout.splitlines()[-1])
    last = said.splitlines()[-1].split()
    predicted = parse_size("".join(last[2:4]).replace(",", ""))
    print(case, predicted / taken, "\n", said)
    # sizes are printed to a tenth
    assert 0.995 * taken <= predicted <= FACTOR * taken


def test_the_command_prints_it_and_refuses(tmp_path: Path) -> None:
    train = f"train popularity --dataset synthetic --out {tmp_path / 'run'}"
    assert "is no size" in refused(f"{train} --memory-limit lots")
    assert "memory_limit = 10.0 MiB: Popularity would take" in refused(f"{train} --memory-limit 10MiB")
    done = works(f"{train} --memory-limit 64GiB --threads 1")
    assert "predicted peak" in done.stderr
    assert "of 64.0 GiB" in done.stderr
    assert memory_limit() is None  # the command's limit ends with it
    evaluate = f"evaluate {tmp_path / 'run'}"
    assert "predicted peak" in works(f"{evaluate} --memory-limit 64GiB").stderr
    assert "which leaves" in refused(f"{evaluate} --memory-limit 10MiB")
    assert "exclude each other" in refused(f"{evaluate} --memory-limit 1GiB --memory-mib 100")


def test_the_command_sets_threads_until_it_ends(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    works(f"train popularity --dataset synthetic --out {tmp_path / 'run'} --threads 3")
    assert torch.get_num_threads() == before
    assert "threads" in json.loads((tmp_path / "run" / "record.json").read_text())["provenance"]
    assert json.loads((tmp_path / "run" / "record.json").read_text())["provenance"]["threads"] == 3
    assert os.environ.get("POLARS_MAX_THREADS") != "3"
    works(f"recommend {tmp_path / 'run'} --all --out {tmp_path / 'all.csv'} --threads 2")
