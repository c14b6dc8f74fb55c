"""Pieces of work on every engine: all results, in order and each once, whatever becomes of the
workers.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import parallel_tasks
import pytest
import torch
from refusing import refused

from recgraph import parallel, registry
from recgraph.parallel import Engine, Piece, TaskFailed


def pieces(n: int) -> list[Piece[int]]:
    return [Piece(f"number {value}", value) for value in range(n)]


HERE = Engine(workers=2)


@pytest.mark.parametrize("where", [None, Engine()])
def test_this_process_is_an_engine(where: Engine | None) -> None:
    assert [*parallel.map(parallel_tasks.add, pieces(3), 100, where)] == [100, 101, 102]
    with refused("number 1", by=TaskFailed):
        [*parallel.map(parallel_tasks.fail, pieces(3), RuntimeError, where)]


def test_results_are_in_the_order_of_the_pieces_which_are_read_as_they_are_needed(
    engine: Engine,
) -> None:
    read = []

    def counted() -> Any:
        for piece in pieces(20):
            read.append(piece.value)
            yield piece

    results = parallel.map(parallel_tasks.slow_first, counted(), engine=engine)
    assert next(results) == 0
    assert len(read) <= 3 * engine.size
    assert [*results] == [*range(1, 20)]
    assert [*parallel.map(parallel_tasks.add, [], 1, engine)] == []
    assert sorted(parallel.map(parallel_tasks.add, pieces(5), 1, engine, ordered=False)) == [
        *range(1, 6)
    ]


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_an_error_names_its_piece_the_first_in_order(
    error: type[Exception], engine: Engine
) -> None:
    with refused("1 cannot be", by=ValueError if error is ValueError else TaskFailed) as raised:
        [*parallel.map(parallel_tasks.fail, pieces(3), error, engine)]
    assert "number 1" in f"{raised.value} {getattr(raised.value, '__notes__', '')}"


def test_a_piece_whose_worker_is_killed_is_done_again_and_counted_once(
    engine: Engine, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    results = [*parallel.map(parallel_tasks.die_once, pieces(4), tmp_path, engine)]
    assert results == [*range(4)]
    assert len((tmp_path / "1.attempts").read_text().splitlines()) == 2
    assert "worker died" not in capfd.readouterr().out


def test_a_worker_that_dies_each_time_is_named(engine: Engine) -> None:
    with refused("number 2", "worker died", by=TaskFailed):
        [
            *parallel.map(
                parallel_tasks.die, pieces(3), None, engine.model_copy(update={"retries": 1})
            )
        ]


def test_threads_and_what_is_shared_reach_the_workers(engine: Engine) -> None:
    table, of_two_threads = torch.arange(1000.0), engine.model_copy(update={"threads": 2})
    asked = [Piece(f"{row}", torch.arange(row, row + 9)) for row in range(3)]
    results = parallel.map(parallel_tasks.rows, asked, table, of_two_threads)
    for piece, (threads, found) in zip(asked, results, strict=True):
        assert threads == 2
        assert torch.equal(found, table[piece.value])


_OWN = """
import recgraph as rg
from recgraph.contrast.weights import Weight


@rg.register("weight")
class OfMyOwn(Weight):
    pass


class Thing:
    pass
"""


def test_workers_import_the_files_of_the_users_own(engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "my_weight_for_workers.py"
    file.write_text(_OWN)
    module = registry.import_file(file)
    (found,) = parallel.map(
        parallel_tasks.own, [Piece("mine", "of_my_own")], module.Thing(), engine
    )
    assert found == "my_weight_for_workers.OfMyOwn Thing"


def test_no_such_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with refused("name"):
        Engine.of({"name": "dask"})
    monkeypatch.setitem(sys.modules, "ray", None)
    with refused("recgraph[ray]", by=ImportError):
        Engine(name="ray").size  # noqa: B018
