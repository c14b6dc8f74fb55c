"""What workloads must compute, by formula and by torch's count of what they do compute; shares of a device's rates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_graph_bench import PATHS, graph
from torch.utils.flop_counter import FlopCounterMode
from workloads import workload

from experiments.bench import __main__ as command
from experiments.bench import rates, report, work
from experiments.bench.graph_suite import graph_suite
from experiments.bench.harness import Measured, Sample, Side
from experiments.bench.suite import Bench, suite
from recgraph import registry
from recgraph.data.part import Part
from recgraph.models.base import Space
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged
from recgraph.train.phases import total_loss

N_USERS, N_ITEMS = 64, 400
SETTINGS = {"hidden_dim": 32, "n_heads": 2, "n_layers": 3, "inner_dim": 64, "max_len": 20}


def _addmm(_: Any, a: Any, b: Any, *__: Any, **___: Any) -> int:
    n, k = a
    return int(2 * n * k * b[1])


#: in place, torch's counter does not know it
IN_PLACE = {torch.ops.aten.addmm_: _addmm}


def part() -> Part:
    draw = torch.Generator().manual_seed(3)
    lengths = torch.randint(3, 25, (N_USERS,), generator=draw)
    values = torch.randint(0, N_ITEMS, (int(lengths.sum()),), generator=draw)
    return Part(Ragged.from_lengths(values, lengths), N_ITEMS)


@pytest.mark.parametrize("regime", ["causal", "prefix"])
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sasrec", {}),
        ("sasrec", {"loss": "sampled_softmax", "n_negatives": 128}),
        ("mclrec", {"augmentations": ("crop", "reorder")}),
        ("mclrec", {}),
        ("cl4srec", {}),
    ],
)
def test_a_step_computes_what_the_formula_says_and_little_more(
    name: str, settings: dict[str, Any], regime: str
) -> None:
    """Beyond it: padding in buckets of like lengths, what the loss computes anew, augmenters."""
    model = registry.load("model", name)(**SETTINGS, dropout=0.0, attention_dropout=0.0, regime=regime, **settings)
    model.build(Space(n_users=N_USERS, n_items=N_ITEMS), seed=0).train()
    batch = next(iter(model.batches(part(), 48, Generators(0)).epoch(0)))
    least = work.step(model, batch).flops
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        for phase in model.phases:
            for parameter in model.parameters():
                parameter.requires_grad_(False)
            groups = model.parameter_groups()
            for parameter in (each for group in phase.groups for each in groups[group]):
                parameter.requires_grad_(True)
            total_loss(model(batch, tuple(phase.terms)), phase).backward()
    assert least <= counter.get_total_flops() <= 1.5 * least


@pytest.mark.parametrize("name", ["meow", "adameow"])
def test_an_epoch_contrasts_all_nodes(name: str) -> None:
    clusters = {"n_clusters": (4, 9)} if name == "meow" else {}
    model = registry.load("model", name)(metapaths=PATHS, hidden_dim=8, dropout=0.0, **clusters).build(graph(), seed=1)
    batch = next(iter(model.train().batches(None, 1, Generators(0)).epoch(0)))
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        total_loss(model(batch, tuple(model.phases[0].terms)), model.phases[0]).backward()
    least = work.step(model, batch)
    # 60 papers with one another and, of MEOW, with 13 prototypes
    assert least.flops == 3 * 2 * 60 * 8 * (60 + (13 if clusters else 0))
    assert least.flops <= counter.get_total_flops()
    assert least.n_bytes == 8 * 4 * sum(parameter.numel() for parameter in model.parameters())


def test_a_step_of_lightgcn_moves_the_rows_of_its_edges() -> None:
    model = registry.load("model", "lightgcn")(hidden_dim=16, n_layers=2)
    model.build(Space(n_users=N_USERS, n_items=N_ITEMS), seed=0)
    train = part()
    model.batches(train, 32, Generators(0))
    entries = 2 * len({*zip(train.items.rows.tolist(), train.items.values.tolist(), strict=True)})
    nodes = N_USERS + N_ITEMS
    # of an entry: a row of 16 numbers, its weight, its column; of a node: a row, the end of its entries
    one = entries * (16 * 4 + 4 + 8) + nodes * (16 * 4 + 8)
    found = work.mean_step(model, [None, None])
    assert found == work.Work(0.0, 2 * 2 * one + 8 * 4 * nodes * 16)
    assert found.counts() == {"GB": found.n_bytes / 1e9}


def test_a_model_without_a_formula_is_refused() -> None:
    model = registry.load("model", "gru4rec")(hidden_dim=8).build(Space(n_users=3, n_items=4), seed=0)
    with pytest.raises(TypeError, match="no formula for a step of GRU4Rec"):
        work.step(model, None)


def sampled(name: str, seconds: float, **counts: float) -> Measured:
    return Measured(name, [Sample(counts, cpu_s=seconds, wall_s=2 * seconds, peak_mb=1.0)])


DEVICE = [
    sampled("copies", 1.0, GB=40),
    sampled("float32", 1.0, GFLOP=100),
    Measured("bfloat16", reason="it has none"),
]


def test_a_line_shows_the_share_of_the_device_and_what_the_device_does() -> None:
    ours = sampled("ours", 0.5, users=10, GB=5, GFLOP=20)
    found = rates.Rates.of(DEVICE, "cpu")
    given: dict[str, Any] = {"bench": "b", "unit": "users", "peer": ours, "threads": 1, "machine": "m"}
    line = json.loads(json.dumps(report.line(ours=ours, rates_of_device=found, **given)))
    assert line["share"] == {"of": "float32", "GB": 0.25, "GFLOP": 0.4}
    assert line["device"] == {"GB/s": 40, "float32 GFLOP/s": 100, "reason": {"bfloat16": "it has none"}}
    assert "b: 25.0% of the device's copies (40 GB/s), 40.0% of the device's float32 products (100 GFLOP/s)" in (
        report.table([line])
    )
    bf16 = report.line(ours=ours, rates_of_device=found, dtype="bfloat16", **given)
    assert bf16["share"] == {"of": "bfloat16", "GB": 0.25}
    failed = report.line(ours=Measured("ours", reason="broken"), rates_of_device=found, **given)
    assert "share" not in failed
    wall = rates.Rates.of(DEVICE, "wall")
    assert (wall.copied, wall.products) == (20, {"float32": 50})


def test_a_product_of_squares_is_counted() -> None:
    run = workload("plain/square.py").prepare({"n": 8, "dtype": "bfloat16", "device": "cpu"})
    assert run(3) == {"GFLOP": 3 * 2 * 8**3 / 1e9}


@pytest.mark.parametrize(("precision", "types"), [("no", {"float32"}), ("bf16", {"float32", "bfloat16"})])
def test_a_run_measures_the_device_and_gives_the_share(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    precision: str,
    types: set[str],
) -> None:
    monkeypatch.setitem(rates._SIZES, "cpu", (1, 64, 2))
    small = Bench(
        "small",
        "users",
        Side("ours", "ours/topk.py", {"n_items": 50, "n_users": 20, "width": 8, "k": 5, "device": "cpu", "steps": 2}),
        Side("peer", "peers/recbole_sasrec.py", {"data": "no such file"}, "recbole"),
    )
    monkeypatch.setattr(command, "suite", lambda *_: [small])
    monkeypatch.setattr(command, "graph_suite", lambda *_: [])
    out = tmp_path / "lines.jsonl"
    assert command.main(["--repeats", "1", "--no-install", "--precision", precision, "--out", str(out)]) == 0
    (line,) = [json.loads(text) for text in out.read_text().splitlines()]
    assert line["ours"] > 0
    assert 0 < line["share"]["GFLOP"] < 10
    assert line["device"].keys() == {"GB/s", *(f"{name} GFLOP/s" for name in types)}
    assert min(line["device"].values()) > 0
    assert "of the device's float32 products" in capsys.readouterr().out


def test_a_precision_is_of_trainings_alone() -> None:
    benches = [command.at_precision(bench, "bf16") for bench in (*suite(Path("x")), *graph_suite(Path("x")))]
    given = {bench.name for bench in benches if bench.ours.options.get("precision") == "bf16"}
    assert {"sasrec-causal-full", "lightgcn", "meow-acm"} <= given
    assert not given & {"ranking-alone", "spmm", "pathsim-acm"}
