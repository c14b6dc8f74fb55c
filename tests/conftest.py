"""Fixtures that all tests share: the device, and the real things that tests may need."""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import browser
import forked
import hypothesis
import numpy as np
import postgres_cluster
import pytest
import torch

from recgraph import registry
from recgraph.parallel import Engine
from recgraph.sparse.device import accelerator_path

# a shell has it ignored by what it starts in the background; tests send it to this process
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# a few examples, the same on every machine; `make test-slow` explores
hypothesis.settings.register_profile("quick", deadline=None, derandomize=True, max_examples=10)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=200)
hypothesis.settings.load_profile("explore" if os.environ.get("RECGRAPH_EXPLORE") else "quick")


def _required() -> set[str]:
    return {
        name.strip() for name in os.environ.get("RECGRAPH_REQUIRE", "").split(",") if name.strip()
    }


def missing(name: str, reason: str) -> None:
    """Skip with the reason, or fail where ``RECGRAPH_REQUIRE`` says that ``name`` must be there
    (CI).
    """
    if name in _required():
        pytest.fail(f"{reason} (RECGRAPH_REQUIRE names {name})")
    pytest.skip(reason)


@pytest.fixture(scope="session")
def unavailable() -> Callable[[str, str], None]:
    """:func:`missing`, for what a test file needs alone."""
    return missing


def _seed(name: str) -> None:
    """Seed the generators of the process, so that what a test draws does not depend on the tests
    before it.
    """
    seed = zlib.crc32(name.encode())
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 (scipy and scikit-learn draw of it)
    # torch.manual_seed formats a stack for each kind of device that is not there: 3 % of the time
    # of all tests
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, object, object]:
    """A shared fixture draws the same, whichever test needs it first."""
    _seed(f"{fixturedef.baseid}::{fixturedef.argname}")
    return (yield)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> None:
    """A test draws the same in every order."""
    _seed(item.nodeid)


#: what modules of tests register as they are imported
_of_modules: dict[tuple[str, str], type[Any]] = {}


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """What a module registers is hidden until tests run: others make their cases of the members of
    the library.
    """
    _seed(collector.nodeid)
    before = {**registry._registered}
    report = yield
    for entry in registry._registered.keys() - before.keys():
        _of_modules[entry] = registry._registered.pop(entry)
    return report


def pytest_collection_finish() -> None:
    """All are collected."""
    registry._registered.update(_of_modules)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and golden files."""
    default = Path(__file__).resolve().parents[1].parent / "shared"
    folder = Path(os.environ.get("RECGRAPH_SHARED", default))
    if not (folder / "data").is_dir():
        missing("shared", f"no shared data at {folder}; set RECGRAPH_SHARED")
    return folder


@pytest.fixture(scope="session")
def dgl() -> Any:
    """The package DGL, where it is installed and runs."""
    from recgraph.sparse.spmm import load_dgl

    try:
        return load_dgl()
    except ImportError as error:
        missing("dgl", str(error))


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL server that runs while the tests do."""
    try:
        import psycopg  # noqa: F401
    except ImportError:
        missing("postgres", "psycopg is not installed; pip install 'recgraph[postgres]'")
    programs = postgres_cluster.programs()
    if programs is None:
        missing("postgres", "no PostgreSQL here; apt-get install postgresql")
    assert programs is not None
    with postgres_cluster.running(programs) as url:
        yield url


@pytest.fixture(scope="session")
def ray_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Ray of this machine with two cores, to which engine ``"ray"`` connects while the tests
    run.
    """
    try:
        import ray
    except ImportError:
        missing("ray", "Ray is not installed; pip install 'recgraph[ray]'")
    paths = [str(forked.ROOT), *filter(None, sys.path)]
    # paths of sockets must be short
    with (
        tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RECGRAPH_HOME", str(tmp_path_factory.getbasetemp() / "home"))
        patch.delenv("RAY_ADDRESS", raising=False)
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            object_store_memory=300 * 2**20,
            _temp_dir=folder,
        )
        try:
            yield
        finally:
            ray.shutdown()


@pytest.fixture(params=["local", "ray"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """Every engine whose results must equal those of a call without one."""
    if request.param == "local":
        return Engine(workers=2)
    request.getfixturevalue("ray_cluster")
    return Engine(name="ray")


@pytest.fixture(scope="session")
def chromium() -> Iterator[browser.Chromium]:
    """A headless Chromium that runs while the tests do."""
    try:
        import axe_playwright_python  # noqa: F401
        import playwright  # noqa: F401
    except ImportError as error:
        missing("chromium", f"{error.name} is not installed; pip install 'recgraph[browser]'")
    path = browser.program()
    if path is None:
        missing("chromium", "no Chromium here; apt-get install chromium")
    assert path is not None
    with browser.launched(path) as found:
        yield found


@pytest.fixture(params=["cpu", "accelerator path", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Every device that a contract must hold on, and the path of accelerators with the tensors of
    the host.
    """
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no device: not run")
    is_forced = request.param == "accelerator path"
    with accelerator_path() if is_forced else nullcontext():
        yield torch.device("cpu" if is_forced else request.param)


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests never read or write the user's cache."""
    if "RECGRAPH_TEST_HOME" in os.environ:
        monkeypatch.setenv("RECGRAPH_HOME", os.environ["RECGRAPH_TEST_HOME"])
    else:
        monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path_factory.getbasetemp() / "home"))


@pytest.fixture(autouse=True)
def _own_members() -> Iterator[None]:
    """What a test registers or imports is forgotten after it, so that no other finds it among the
    library's own.
    """
    tables: list[dict[Any, Any]] = [registry._registered, registry._imported]
    before, path = [{**table} for table in tables], [*sys.path]
    yield
    sys.path[:] = path
    for name in registry._imported.keys() - before[-1].keys():
        sys.modules.pop(name, None)
    for table, entries in zip(tables, before, strict=True):
        table.clear()
        table.update(entries)


@pytest.fixture(scope="session")
def movies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for ``RECGRAPH_HOME`` in which MovieLens-100k lies prepared."""
    from recgraph.data import catalog
    from recgraph.data.catalog.logs import UnavailableError

    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECGRAPH_HOME", str(home))
        try:
            catalog.get("ml-100k")
        except UnavailableError as error:
            missing("ml-100k", f"no source gives ml-100k: {error}")
    return home
