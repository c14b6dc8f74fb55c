"""Without a limit the machine is the limit: what does not fit is refused before it is computed, or cut to fit."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import polars as pl
import pytest
import torch
from command_line import refused, works

import recgraph as rg
from recgraph.data.interactions import Interactions
from recgraph.data.split import Split
from recgraph.memory import Bound, MemoryLimitError, available, bound_of, check_estimate, check_room, resident
from recgraph.models.base import Space
from recgraph.serve import memory as serve_memory
from recgraph.serve.recommender import Recommender

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from experiments import memory_predictions  # noqa: E402

MIB = 2**20


def log(n_users: int = 60, n_items: int = 40, each: int = 6) -> Interactions:
    draw = torch.Generator().manual_seed(0)
    items = torch.stack([torch.randperm(n_items, generator=draw)[:each] for _ in range(n_users)]).flatten()
    users = torch.arange(n_users).repeat_interleave(each)
    frame = pl.DataFrame({"u": users.numpy(), "i": items.numpy(), "t": torch.arange(len(users)).numpy()})
    return Interactions.from_frame(frame, user="u", item="i", timestamp="t")


def split() -> Split:
    return log().split("leave-one-out")


def left(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    """The machine has so much left."""
    monkeypatch.setattr("recgraph.memory.available", lambda: n_bytes)


def group(root: Path, folder: str, version: int, limit: str, usage: int, inactive: int) -> None:
    at = root / "sys/fs/cgroup" / ("memory" if version == 1 else "") / folder
    at.mkdir(parents=True, exist_ok=True)
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if version == 1 else ("memory.max", "memory.current")
    (at / names[0]).write_text(f"{limit}\n")
    (at / names[1]).write_text(f"{usage}\n")
    (at / "memory.stat").write_text(f"anon 5\n{'total_' if version == 1 else ''}inactive_file {inactive}\n")


def own(root: Path, lines: str) -> None:
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text(lines)


@pytest.mark.parametrize("version", [1, 2])
def test_a_control_group_bounds_the_process(version: int, tmp_path: Path) -> None:
    """Of a group and those around it the tightest; what a file cache gives up is not in use."""
    machine = available(tmp_path)  # no group
    assert machine is not None
    own(tmp_path, "1:cpu:/x\n5:memory,hugetlb:/a/b\n0::/\n" if version == 1 else "0::/a/b\n")
    group(tmp_path, "", version, "max" if version == 2 else str(2**63 - 4096), 3 * MIB, 0)
    group(tmp_path, "a", version, str(64 * MIB), 40 * MIB, 10 * MIB)
    group(tmp_path, "a/b", version, str(50 * MIB), 8 * MIB, 2 * MIB)
    assert available(tmp_path) == 34 * MIB
    group(tmp_path, "a/b", version, str(50 * MIB), 48 * MIB, 2 * MIB)
    assert available(tmp_path) == 4 * MIB
    group(tmp_path, "a/b", version, str(50 * MIB), 60 * MIB, 0)
    assert available(tmp_path) == 0


def test_a_container_that_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    own(tmp_path, "0::/../../kubepods/pod7/c0ffee\n")
    group(tmp_path, "", 2, str(20 * MIB), 15 * MIB, 1 * MIB)
    assert available(tmp_path) == 6 * MIB


@pytest.mark.parametrize("lines", ["0::/a\n", "4:memory:/a\n", "", "3:cpu:/a\n"])
def test_groups_that_say_nothing_bound_nothing(lines: str, tmp_path: Path) -> None:
    own(tmp_path, lines)
    (tmp_path / "sys/fs/cgroup/a").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/a/memory.max").write_text("lots\n")
    free = available(tmp_path)
    assert free is not None
    assert free > MIB


def test_the_bound_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    left(monkeypatch, 100 * MIB)
    found = bound_of()
    assert found is not None
    assert not found.is_given
    assert abs(found.n_bytes - resident() - 100 * MIB) < 64 * MIB
    assert bound_of("2GiB") == Bound(2**31, is_given=True)
    monkeypatch.setenv("RECGRAPH_MEMORY_LIMIT", "3GiB")
    assert bound_of() == Bound(3 * 2**30, is_given=True)
    monkeypatch.delenv("RECGRAPH_MEMORY_LIMIT")
    check_room(MIB, "a table", "take less")
    with pytest.raises(MemoryLimitError, match=r"this machine has .* now: a table would take 1\.0 GiB .*; take less"):
        check_room(2**30, "a table", "take less")
    monkeypatch.setattr("recgraph.memory.available", lambda: None)
    check_room(2**60, "a table", "take less")  # a system that does not say


def test_a_fit_that_the_machine_cannot_hold_is_refused_with_what_fits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left(monkeypatch, MIB)
    with pytest.raises(MemoryLimitError, match=r"this machine has .*: SASRec would take .*memory_limit='.* goes on"):
        rg.fit(rg.models.SASRec(hidden_dim=8), split(), seed=0, max_epochs=1, out=tmp_path / "run")
    assert not (tmp_path / "run" / "bundle").exists()
    left(monkeypatch, 2**34)
    with caplog.at_level(logging.INFO, logger="recgraph.runs.memory"):
        rg.fit(rg.models.SASRec(hidden_dim=8), split(), seed=0, max_epochs=1)
    assert not [record for record in caplog.records if record.name == "recgraph.runs.memory"]
    left(monkeypatch, MIB)
    rg.fit(rg.models.SASRec(hidden_dim=8), split(), seed=0, max_epochs=1, memory_limit="64GiB")


def test_a_model_that_cannot_be_predicted_is_fitted(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(self: object, work: object) -> None:
        raise RuntimeError("no such number")

    monkeypatch.setattr(rg.models.BPRMF, "memory_needs", unknown)
    rg.fit(rg.models.BPRMF(hidden_dim=4), split(), seed=0, max_epochs=1)
    with pytest.raises(RuntimeError, match="no such number"):
        rg.fit(rg.models.BPRMF(hidden_dim=4), split(), seed=0, max_epochs=1, memory_limit="64GiB")


def test_an_update_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    run = rg.fit(rg.models.SASRec(hidden_dim=8), log(), seed=0, max_epochs=1, out=tmp_path / "run")
    new = pl.DataFrame({"u": [1, 2, 3, 4] * 5, "i": list(range(20)), "t": list(range(1000, 1020))})
    with pytest.raises(MemoryLimitError, match=r"memory_limit = 10\.0 MiB: SASRec would take"):
        run.update(new, out=tmp_path / "new", memory_limit="10MiB")
    new.write_csv(tmp_path / "new.csv")
    command = f"update {tmp_path / 'run'} --data {tmp_path / 'new.csv'} --out {tmp_path / 'new'} --force"
    assert "SASRec would take" in refused(f"{command} --memory-limit 10MiB")
    assert not (tmp_path / "new" / "bundle").exists()
    assert "predicted memory of sasrec" in works(f"{command} --memory-limit 64GiB --threads 1").stderr


def recommender(n_users: int = 60) -> Recommender:
    data = log(n_users)
    return Recommender.for_log(rg.models.BPRMF(hidden_dim=8).build(Space(n_users=n_users, n_items=40)), data)


def test_lists_that_are_long_are_made_in_parts_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    served = recommender()
    whole = served.recommend("all", k=40)
    monkeypatch.setattr(serve_memory, "_PART_PLACES", 40 * 7)
    parts = [*served.stream("all", k=40)]
    assert [part["u"].n_unique() for part in parts] == [7] * 8 + [4]
    assert pl.concat(parts).drop("score").equals(whole.drop("score"))
    monkeypatch.undo()
    monkeypatch.setattr(serve_memory, "SMALL", 0)
    left(monkeypatch, 34 * MIB)
    monkeypatch.setattr(serve_memory, "_OF_PLACE", 2**14)  # of a user 640 KiB
    sizes = [part["u"].n_unique() for part in served.stream("all", k=40)]
    assert sum(sizes) == 60
    assert 30 <= sizes[0] <= 54
    with pytest.raises(MemoryLimitError, match=r"the lists of 60 users, k = 40, do not fit at once, those of \d+ do"):
        served.recommend("all", k=40)
    left(monkeypatch, 0)
    with pytest.raises(MemoryLimitError, match=r"lists of 40 of 40 items would take .* even for one user"):
        next(served.stream("all", k=40))


def test_a_bundle_and_vectors_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served = recommender()
    served.save(tmp_path / "bundle")
    monkeypatch.setattr(serve_memory, "SMALL", 0)
    left(monkeypatch, 0)
    with pytest.raises(MemoryLimitError, match=r"the bundle .* would take .*; load it where there is more memory"):
        Recommender.load(tmp_path / "bundle")
    with pytest.raises(MemoryLimitError, match="40 vectors would take"):
        served.item_vectors()
    with pytest.raises(MemoryLimitError, match="60 vectors would take"):
        served.user_vectors()


def test_an_evaluation_takes_blocks_where_memory_is_short_and_refuses_where_none_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = rg.fit("popularity", split(), seed=0)
    free = run.evaluate("valid").to_polars()
    monkeypatch.setattr("recgraph.evaluate.limits.SMALL", 0)
    assert run.evaluate("valid").to_polars().equals(free)
    left(monkeypatch, 0)
    with pytest.raises(MemoryLimitError, match=r"this machine has .* which leaves .* to rank with"):
        run.evaluate("valid")


def test_the_command_recommends_within_a_limit(tmp_path: Path) -> None:
    rg.fit("popularity", log(), seed=0, out=tmp_path / "run")
    ask = f"recommend {tmp_path / 'run'} --all --out {tmp_path / 'all.csv'}"
    works(f"{ask} --memory-limit 64GiB")
    assert (tmp_path / "all.csv").exists()


class Peaks:
    """Predicted peaks, beyond what the process holds: estimates are not compared with anything."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> None:
        self._found: list[int] = []
        monkeypatch.setattr(module, "resident", lambda: 0)
        monkeypatch.setattr(module, "check_estimate", lambda estimate, *_: self._found.append(estimate.peak))

    def of(self, check: Callable[..., None], *arguments: object) -> int:
        check(*arguments)
        return self._found[-1]


def test_exports_and_services_are_predicted_by_their_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = Peaks(monkeypatch, serve_memory)
    small, large = (rg.models.BPRMF(hidden_dim=8).build(Space(n_users=50, n_items=n_items)) for n_items in (40, 40_000))
    export, service = serve_memory.check_export, serve_memory.check_service
    assert 0 < peaks.of(export, small, 50) < peaks.of(export, small, 50_000)
    assert peaks.of(export, small, 50) < peaks.of(export, large, 50)
    least = peaks.of(service, small, 90, 2, 128, 10, 1)
    assert least > 0
    assert peaks.of(service, small, 90, 2, 128, 1000, 1) == peaks.of(service, small, 90, 2, 128, 40, 1) > least
    for larger in (
        (large, 90, 2, 128, 10, 1),
        (small, 90_000, 2, 128, 10, 1),
        (small, 90, 20_000, 128, 10, 1),
        (small, 90, 2, 256, 10, 1),
        (small, 90, 2, 128, 10, 4),
    ):
        assert peaks.of(service, *larger) > least
    scores = rg.models.EASE().build(Space(n_users=50, n_items=40))  # no vectors: a thread has scores of its own
    assert peaks.of(service, scores, 90, 2, 1, 1, 9) - peaks.of(service, scores, 90, 2, 1, 1, 1) > 8 * 4 * 256 * 40


def test_a_service_that_does_not_fit_is_refused_with_the_lists_that_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model = rg.models.BPRMF(hidden_dim=8).build(Space(n_users=60, n_items=40))
    monkeypatch.setattr(serve_memory, "resident", lambda: 0)

    def check(k: int, threads: int = 1) -> None:
        serve_memory.check_service(model, 100, 2, 128, k, threads)

    peaks = Peaks(monkeypatch, serve_memory)
    monkeypatch.setenv("RECGRAPH_MEMORY_LIMIT", str(peaks.of(check, 7)))
    monkeypatch.setattr(serve_memory, "check_estimate", check_estimate)
    check(7)
    with pytest.raises(MemoryLimitError, match=r"service of BPRMF would take .*; what fits: lists of 7 \(--max-k\)"):
        check(8)
    with pytest.raises(MemoryLimitError, match="or with fewer --threads, or allow"):
        check(8, threads=8)


def test_the_commands_refuse_exports_and_services_before_they_write_or_answer(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript", reason="onnxscript is not installed; pip install 'recgraph[export]'")
    recommender().save(tmp_path / "bundle")
    told = refused(f"export {tmp_path / 'bundle'} --out {tmp_path / 'export'} --memory-limit 10MiB")
    assert "memory_limit = 10.0 MiB: the export of BPRMF would take" in told
    assert "export where there is more memory, or allow" in told
    told = refused(f"serve {tmp_path / 'bundle'} --port 0 --memory-limit 10MiB")
    assert "predicted memory of the service of BPRMF" in told
    assert "memory_limit = 10.0 MiB: the service of BPRMF would take" in told
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_the_page_has_the_table_of_the_measured_cases() -> None:
    """And of each the prediction is within a quarter of what was measured."""
    lines = [json.loads(line) for line in (ROOT / "experiments/results/memory.jsonl").read_text().splitlines()]
    assert [line["case"] for line in lines] == list(memory_predictions.CASES)
    assert all(0.75 <= line["predicted"] / line["measured"] <= 1.25 for line in lines)
    assert memory_predictions.table(ROOT / "experiments/results/memory.jsonl") in (ROOT / "docs/cli.md").read_text()
