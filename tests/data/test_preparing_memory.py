"""What a preparation in shards takes of memory is predicted, and refused before a shard is read."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from command_line import refused, works

from recgraph.data import preparing_memory
from recgraph.data.log_file import LogFile
from recgraph.data.preparing import prepare
from recgraph.data.preparing_memory import check_preparation, n_rows_of_text
from recgraph.data.reading import Reading
from recgraph.memory import Estimate, MemoryLimitError

LINES = "user,item,timestamp\n" + "".join(f"{row % 50:04},{row % 30:04},{row:08}\n" for row in range(2000))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "log.csv").write_text(LINES)
    return tmp_path / "log.csv"


def peak(monkeypatch: pytest.MonkeyPatch, shards: list[int], range_rows: int) -> int:
    """Beyond what the process holds."""
    found: list[Estimate] = []
    with monkeypatch.context() as patch:
        patch.setattr(preparing_memory, "resident", lambda: 0)
        patch.setattr(preparing_memory, "check_estimate", lambda estimate, *_: found.append(estimate))
        check_preparation(shards, range_rows)
    return found[0].peak


def test_the_prediction_grows_with_the_largest_shard_and_the_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    least = peak(monkeypatch, [1000], 1000)
    assert least > 0
    assert peak(monkeypatch, [1000, 10_000], 1000) > least
    assert peak(monkeypatch, [1000] * 100, 50_000) > peak(monkeypatch, [1000] * 100, 1000) == least
    assert peak(monkeypatch, [1000], 50_000) == least  # no range is larger than the log
    assert peak(monkeypatch, [0], 50_000) > 0


def test_rows_of_a_text_are_judged_by_its_first_lines(path: Path) -> None:
    assert abs(n_rows_of_text(path, Reading()) - 2000) < 20
    packed = path.with_name("log.csv.gz")
    packed.write_bytes(gzip.compress(LINES.encode()))
    assert n_rows_of_text(packed, Reading()) > 0
    path.write_text("")
    assert n_rows_of_text(path, Reading()) == 0


@pytest.mark.parametrize(("range_rows", "missing", "fits"), [(2000, 1, 1999), (5000, 240, 1998)])
def test_what_does_not_fit_is_refused_with_what_does_before_anything_is_written(
    range_rows: int, missing: int, fits: int, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, out = LogFile(str(path), Reading()), path.with_name("split")
    monkeypatch.setattr(preparing_memory, "resident", lambda: 0)
    monkeypatch.setattr("recgraph.data.preparing.n_rows_of_text", lambda *_: 2000)
    monkeypatch.setenv("RECGRAPH_MEMORY_LIMIT", str(peak(monkeypatch, [2000], range_rows) - missing))
    with pytest.raises(MemoryLimitError, match=f"the preparation would take .*; what fits: range_rows = {fits}, "):
        prepare(files, out, range_rows=range_rows)
    assert [*path.parent.iterdir()] == [path]
    assert prepare(files, out, range_rows=fits).n_ranges == 2


def test_the_command_has_a_limit(path: Path) -> None:
    command = f"data prepare {path} --out {path.with_name('split')}"
    told = refused(f"{command} --memory-limit 10MiB")
    assert "memory_limit = 10.0 MiB: the preparation would take" in told
    assert "prepare the log where there is more memory, or allow" in told
    assert [*path.parent.iterdir()] == [path]
    assert "predicted memory of the preparation" in works(f"{command} --memory-limit 64GiB").stderr
