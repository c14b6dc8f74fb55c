"""The benchmark harness: its arithmetic, its lines, its processes. Nothing here measures a library."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from experiments.bench import __main__ as command
from experiments.bench import environments, report
from experiments.bench.harness import Measured, Sample, Side, child_environment, measure_in_turn
from experiments.bench.suite import suite

FIELDS = {"bench", "ours", "peer", "ratio", "unit", "threads", "machine", "peer_name", "peak_mb", "spread"}


def sample(targets: float, cpu_s: float, wall_s: float | None = None, **more: float) -> Sample:
    return Sample({"targets": targets, **more}, cpu_s, cpu_s if wall_s is None else wall_s, peak_mb=100.0)


def measured(name: str, *rates: float) -> Measured:
    return Measured(name, [sample(rate * 2, cpu_s=2.0) for rate in rates])


def line(ours: Measured, peer: Measured, **more: Any) -> dict[str, Any]:
    return report.line(bench="b", unit="targets", ours=ours, peer=peer, machine="m", **{"threads": 1, **more})


def test_medians_ratio_and_spread() -> None:
    result = line(measured("ours", 90, 100, 1000, 95, 110), measured("peer", 10, 20, 25, 30, 1))
    assert result["ours"] == 100
    assert result["peer"] == 20
    assert result["ratio"] == 5
    assert result["spread"] == {"ours": 9.1, "peer": 1.45}
    assert result["repeats"] == 5
    assert result["unit"] == "targets/s"


def test_a_line_is_json_with_the_fields_that_are_promised() -> None:
    result = json.loads(json.dumps(line(measured("ours", 2), measured("peer", 1))))
    assert result.keys() >= FIELDS
    assert "reason" not in result


def test_one_thread_counts_process_time_and_the_wall_clock_can_be_asked_for() -> None:
    ours, peer = Measured("o", [sample(10, cpu_s=1, wall_s=2)]), Measured("p", [sample(10, cpu_s=2, wall_s=1)])
    assert line(ours, peer)["ratio"] == 2
    assert line(ours, peer, clock="wall")["ratio"] == 0.5


def test_a_side_that_shared_its_processor_is_named() -> None:
    ours, peer = Measured("o", [sample(10, cpu_s=1, wall_s=2)]), Measured("p", [sample(10, cpu_s=1)])
    assert line(ours, peer)["disturbed"] == {"ours": 0.5, "peer": 1.0}
    assert "disturbed" not in line(peer, peer)
    assert "disturbed" not in line(ours, peer, clock="wall")


@pytest.mark.parametrize("missing", ["ours", "peer"])
def test_a_missing_side_is_null_with_its_reason_and_no_number_stands_in(missing: str) -> None:
    sides = {"ours": measured("ours", 5), "peer": measured("peer", 5)}
    sides[missing] = Measured(missing, reason="does not install")
    result = line(**sides, reference=report.Reference("published", 1, 2), goal=report.Goal(2))
    assert result[missing] is None
    assert result["ratio"] is None
    assert result["peak_mb"][missing] is None
    assert result["reason"] == {missing: "does not install"}
    assert result["goal"]["met"] is None
    assert "no number for" in report.table([result])
    assert ("reference" in result) == (missing == "peer")


def test_a_reference_is_shown_apart_and_judged_by_its_higher_figure() -> None:
    published = report.Reference("published", 75, 92, share_of_peer=0.2)
    result = line(measured("ours", 920), measured("peer", 460), reference=published, goal=report.Goal(10, "reference"))
    assert result["ratio"] == 2
    assert result["reference"]["ratio"] == 10
    assert result["reference"]["ratio_by_share_of_peer"] == 10
    assert result["goal"]["met"] is True
    assert line(measured("o", 3), measured("p", 2), goal=report.Goal(2))["goal"]["met"] is False


def test_what_is_counted_beside_the_unit_is_reported() -> None:
    ours = Measured("o", [sample(10, cpu_s=2, pairs=4)])
    assert line(ours, measured("p", 1))["beside"] == {"pairs/s": 2}


def test_further_peers_are_shown_and_not_judged() -> None:
    broken = Measured("broken", reason="does not install")
    result = line(measured("ours", 8), measured("peer", 4), others=[measured("plain", 2), broken])
    plain, missing = result["others"]
    assert (plain["name"], plain["rate"], plain["ratio"]) == ("plain", 2, 4)
    assert (missing["rate"], missing["reason"]) == (None, "does not install")
    assert result["ratio"] == 2
    assert "b: plain 2, ratio 4" in report.table([result])


def test_memory_beyond_what_was_prepared() -> None:
    ours = measured("ours", 8)
    ours.prepared_mb = 60.4
    assert line(ours, measured("peer", 4))["beyond_mb"] == {"ours": 40, "peer": None}


def test_the_table_has_a_row_for_each_line() -> None:
    text = report.table([line(measured("ours", 20000), measured("peer", 10), goal=report.Goal(2))] * 2).splitlines()
    assert len(text) == 4
    assert "20,000" in text[2]
    assert "2 met" in text[2]


def test_written_lines_replace_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "bench.jsonl"
    for count in (1, 2):
        report.write([{"bench": str(place)} for place in range(count)], path)
    assert [json.loads(text)["bench"] for text in path.read_text().splitlines()] == ["0", "1"]
    assert [found.name for found in path.parent.iterdir()] == ["bench.jsonl"]


COUNTING = """
import os
def prepare(options):
    print("what a library prints")
    with open(options["log"], "a") as log:
        log.write(options["name"] + "+")
    def run(steps):
        with open(options["log"], "a") as log:
            log.write(options["name"] + str(steps))
        return {"targets": steps, "threads": int(os.environ["OMP_NUM_THREADS"])}
    return run
"""


def side(folder: Path, name: str, source: str = COUNTING) -> tuple[Side, Path]:
    workload = folder / f"{name}.py"
    workload.write_text(source)
    options = {"name": name, "log": str(folder / "log"), "steps": 7, "warmup": 2}
    return Side(name, str(workload), options), Path(sys.executable)


def test_processes_are_measured_in_turn_after_their_warm_up(tmp_path: Path) -> None:
    first, second = measure_in_turn([side(tmp_path, "a"), side(tmp_path, "b")], threads=3, repeats=2)
    assert (tmp_path / "log").read_text() == "a+a2b+b2a7b7a7b7"
    assert [found.counts["targets"] for found in first.samples] == [7, 7]
    assert second.samples[0].counts["threads"] == 3
    assert first.samples[0].wall_s > 0
    assert first.samples[0].peak_mb > 1
    assert first.versions["python"].startswith(f"{sys.version_info[0]}.")


@pytest.mark.parametrize(
    "source",
    [
        "raise ValueError('it broke')",
        "def prepare(options):\n    raise ValueError('it broke')",
        "def prepare(options):\n    done = []\n    def run(steps):\n        done.append(steps)\n"
        "        if len(done) > 2: raise ValueError('it broke')\n        return {'targets': 1}\n    return run",
    ],
)
def test_a_side_that_fails_gives_its_reason_and_the_other_goes_on(tmp_path: Path, source: str) -> None:
    broken, whole = measure_in_turn([side(tmp_path, "a", source), side(tmp_path, "b")], threads=1, repeats=3)
    assert not broken.ok
    assert not broken.samples
    assert broken.reason is not None
    assert "it broke" in broken.reason
    assert len(whole.samples) == 3


def test_a_side_that_hangs_is_ended(tmp_path: Path) -> None:
    slow = "import time\ndef prepare(options):\n    time.sleep(60)"
    (stuck,) = measure_in_turn([side(tmp_path, "a", slow)], threads=1, repeats=1, timeout_s=0.5)
    assert stuck.reason is not None
    assert "no answer within 0.5 s" in stuck.reason


def test_the_measured_process_gets_its_threads_and_no_switch_that_favours_a_side() -> None:
    made = child_environment({"OPENBLAS_CORETYPE": "Haswell", "HOME": "/home/x", "OMP_NUM_THREADS": "8"}, threads=2)
    assert made["OMP_NUM_THREADS"] == made["MKL_NUM_THREADS"] == "2"
    assert made["CUDA_VISIBLE_DEVICES"] == ""
    assert made["HOME"] == "/home/x"
    assert "OPENBLAS_CORETYPE" not in made
    assert "CUDA_VISIBLE_DEVICES" not in child_environment({}, threads=1, hide_accelerator=False)


def test_a_peer_that_is_not_installed_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "FOLDER", tmp_path)
    with pytest.raises(environments.EnvironmentMissing, match="recbole is not installed"):
        environments.python_of("recbole", install=False)


def test_a_failed_install_is_told_without_addresses() -> None:
    output = "Looking in indexes: https://example.org/simple\nERROR: No match for x (from https://example.org/x)\nhint"
    assert environments.reason(output) == "ERROR: No match for x"
    assert environments.reason("") == "no message"


def test_missing_data_is_a_reason(tmp_path: Path) -> None:
    chosen = command.arguments(["--no-install"])
    for bench in suite(tmp_path / "none.txt"):
        if "data" in bench.ours.options:
            assert "no data at" in str(command.interpreter(bench.ours, chosen))


def test_every_workload_of_the_suite_exists_and_names_differ() -> None:
    benches = list(suite(Path("x")))
    assert len({bench.name for bench in benches}) == len(benches)
    for bench in benches:
        for each in (bench.ours, bench.peer):
            assert (Path(command.__file__).parent / each.workload).is_file()
            assert each.environment is None or each.environment in environments.PEERS


def test_only_chooses_by_part_of_a_name_and_refuses_what_names_nothing() -> None:
    benches = list(suite(Path("x")))
    found = {bench.name for bench in command.select(benches, ["ranking"])}
    assert found == {"ranking-end-to-end", "ranking-alone", "ranking-large"}
    assert command.select(benches, None) == benches
    with pytest.raises(ValueError, match="names no benchmark; there are sasrec-prefix"):
        command.select(benches, ["nothing"])


@pytest.mark.parametrize("wrong", [["--repeats", "0"], ["--threads", "one"], ["--threads", "1,0"]])
def test_wrong_arguments_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.arguments(wrong)
    assert wrong[1][:1] in capsys.readouterr().err
