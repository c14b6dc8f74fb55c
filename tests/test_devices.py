"""No module that computes names a device."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def devices() -> ModuleType:
    spec = importlib.util.spec_from_file_location("devices", Path(__file__).parent / "checks" / "devices.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_library_names_no_device(devices: ModuleType) -> None:
    assert devices.check() == []


def test_allowed_files_exist(devices: ModuleType) -> None:
    for name in devices.ALLOWED:
        assert (devices.ROOT / "recgraph" / name).is_file(), f"{name} is allowed but does not exist"


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("x.cpu()", ".cpu()"),
        ("x.detach().cuda()", ".cuda()"),
        ("x.numpy()", ".numpy()"),
        ("x.to('cuda:1')", "'cuda:1'"),
        ("d = 'cpu'", "'cpu'"),
        ("d = torch.device(name)", "torch.device"),
    ],
)
def test_what_it_finds(devices: ModuleType, line: str, what: str) -> None:
    assert list(devices.offences(f"import torch\n{line}\n")) == [(2, what)]


@pytest.mark.parametrize("line", ["x.to(y.device)", "def f(d: torch.device | str): ...", "'slow on cpu'"])
def test_what_it_leaves_alone(devices: ModuleType, line: str) -> None:
    assert list(devices.offences(line)) == []
