"""No module that computes names a device."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location("devices", Path(__file__).parent / "checks" / "devices.py")
assert _spec is not None
assert _spec.loader is not None
devices = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(devices)


def test_the_library_names_no_device() -> None:
    assert devices.check() == []
    assert [name for name in devices.ALLOWED if not (devices.ROOT / "recgraph" / name).is_file()] == []


def test_what_it_finds() -> None:
    found = ["x.cpu()", "x.detach().cuda()", "x.numpy()", "x.to('cuda:1')", "d = 'cpu'", "d = torch.device(name)"]
    assert sorted(line for line, _ in devices.offences("\n".join(found))) == [1, 2, 3, 4, 5, 6]
    fine = ["x.to(y.device)", "def f(d: torch.device | str): ...", "'slow on cpu'"]
    assert list(devices.offences("\n".join(fine))) == []
