"""Engines: the results of all pieces in order and each once, whatever becomes of the workers; and what errors say."""

from __future__ import annotations

import configparser
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray_tasks

from recgraph import imports
from recgraph.config import ConfigError
from recgraph.engine import Engine, Local, Piece, TaskFailed
from recgraph.workers.engines import Ray, RayConfig, engine_of


def pieces(n: int) -> list[Piece[int]]:
    return [Piece(f"number {value}", value) for value in range(n)]


def test_results_are_in_the_order_of_the_pieces(engine: Engine) -> None:
    assert list(engine.map(ray_tasks.add, pieces(9), 100)) == [*range(100, 109)]
    assert list(engine.map(ray_tasks.slow_first, pieces(7))) == [*range(7)]
    assert list(engine.map(ray_tasks.add, [], 100)) == []


def test_an_engine_reads_pieces_as_it_needs_them(engine: Engine) -> None:
    read = []

    def counted() -> Any:
        for piece in pieces(50):
            read.append(piece.value)
            yield piece

    results = engine.map(ray_tasks.add, counted(), 0)
    assert next(results) == 0
    assert len(read) <= 1 + 2 * engine.size
    assert [*results] == [*range(1, 50)]


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_an_error_names_its_task(error: type[Exception], engine: Engine) -> None:
    results = engine.map(ray_tasks.fail, pieces(3), error)
    expected = ValueError if error is ValueError else TaskFailed
    with pytest.raises(expected, match="it cannot be") as raised:
        list(results)
    said = f"{raised.value} {getattr(raised.value, '__notes__', '')}"
    assert "number 1" in said


def test_of_several_errors_the_first_in_order_counts(engine: Engine) -> None:
    with pytest.raises(ValueError, match="0 cannot be"):
        list(engine.map(ray_tasks.fail_late_and_early, pieces(4)))


def test_a_task_whose_worker_is_killed_is_done_again_and_counted_once(
    ray_cluster: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = list(Ray().map(ray_tasks.die_once, pieces(6), tmp_path))
    assert results == [*range(6)]
    attempts = {value: (tmp_path / f"{value}.attempts").read_text().splitlines() for value in range(6)}
    assert {value: len(of) for value, of in attempts.items()} == {0: 1, 1: 2, 2: 1, 3: 1, 4: 2, 5: 1}
    assert all(len(set(of)) == len(of) for of in attempts.values())
    redone = [record.getMessage() for record in caplog.records if "done again" in record.msg]
    assert sorted(message[: len("task number 1")] for message in redone) == ["task number 1", "task number 4"]


def test_a_task_whose_workers_die_each_time_is_an_error(ray_cluster: None, tmp_path: Path) -> None:
    with pytest.raises(TaskFailed, match=r"number 2.* died 3 times"):
        list(Ray(config=RayConfig(retries=2)).map(ray_tasks.die, pieces(4), tmp_path))
    assert (tmp_path / "attempts").read_text() == "xxx"


def test_a_worker_that_was_interrupted_gets_no_other_task(ray_cluster: None, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="it cannot be"):
        list(Ray().map(ray_tasks.interrupted, pieces(2), tmp_path))
    assert list(Ray().map(ray_tasks.interrupted, pieces(12)[2:], tmp_path)) == [*range(2, 12)]


def test_what_is_shared_is_unpacked_once_a_worker(ray_cluster: None) -> None:
    found = list(Ray(config=RayConfig(workers=2)).map(ray_tasks.unpacked, pieces(12), ray_tasks.Unpacked()))
    by_process: dict[int, set[int]] = {}
    for process, times in found:
        by_process.setdefault(process, set()).add(times)
    assert all(len(times) == 1 for times in by_process.values())


def test_the_settings_reach_the_cluster(ray_cluster: None) -> None:
    assert Ray().size == 2
    assert Ray(config=RayConfig(threads=2)).size == 1
    assert list(Ray(config=RayConfig(threads=2)).map(ray_tasks.threads, pieces(2))) == [2, 2]
    engine = engine_of("ray", {"workers": 5, "memory_mib": 100, "retries": 1})
    assert isinstance(engine, Ray)
    assert engine.config == RayConfig(workers=5, memory_mib=100, retries=1)
    assert engine.size == 5
    assert list(engine.map(ray_tasks.add, pieces(3), 1)) == [1, 2, 3]


_OWN = """
import recgraph as rg
from recgraph.contrast.weights import Weight


@rg.register("weight")
class OfMyOwn(Weight):
    pass


class Thing:
    pass
"""


def test_workers_import_the_files_of_the_users_own(
    ray_cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "my_weight_for_ray.py"
    file.write_text(_OWN)
    monkeypatch.setattr(sys, "path", [*sys.path])
    module = imports.import_file(file)
    (found,) = Ray().map(ray_tasks.own, [Piece("mine", "of_my_own")], module.Thing())
    assert found == "my_weight_for_ray.OfMyOwn Thing"


def test_engines_by_name() -> None:
    assert isinstance(engine_of(None), Local)
    assert isinstance(engine_of("local"), Local)
    mine = Local()
    assert engine_of(mine) is mine
    assert repr(engine_of("ray://host:10001")).startswith("Ray('ray://host:10001'")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: engine_of("dask"), "engine = 'dask' must be 'local', 'ray' or"),
        (lambda: engine_of("ray", {"worker": 2}), "'worker'.*workers"),
        (lambda: engine_of("ray", {"workers": 0}), "workers"),
        (lambda: engine_of("local", {"workers": 2}), "setting 'workers' is for engine 'ray'"),
        (lambda: engine_of(Local(), {"workers": 2}), "set them in it"),
    ],
)
def test_what_cannot_be_is_refused(make: Callable[[], Engine], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_without_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'recgraph\[ray\]'"):
        list(engine_of("ray").map(ray_tasks.add, pieces(1), 0))


def test_a_cluster_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise ConnectionError("ray client connection timeout")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(ConnectionError, match=r"'ray://host:9'.*does not answer \(ray client conn.*10001"):
        list(engine_of("ray://host:9").map(ray_tasks.add, pieces(1), 0))


def test_the_extra_has_what_an_address_needs() -> None:
    settings = configparser.ConfigParser()
    settings.read(Path(__file__).parents[2] / "setup.cfg")
    assert settings["options.extras_require"]["ray"].split() == ["ray[client]>=2.40"]
