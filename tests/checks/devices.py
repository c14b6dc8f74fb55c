"""The static device check: a model that names a device runs on that device alone.

Fails on ``.cpu()``, ``.cuda()``, ``.numpy()``, ``torch.device(...)`` and device names where it
computes. Run by ``make lint`` and by tests/test_project.py.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("models", "encoders", "augment", "graph", "contrast", "losses", "sparse")
# file below recgraph/ -> what it may name, with the reason beside it
ALLOWED: dict[str, set[str]] = {
    "contrast/clustering.py": {"'cpu'"},  # scikit-learn's k-means runs on the host
    "models/closed_form/linear.py": {"torch.device", "'cpu'"},  # so does its elastic net
    "models/closed_form/neighbours.py": {"'cpu'"},  # a table of the host is held against its memory
    "models/two_stage.py": {"'cpu'"},  # and its trees
    "sparse/device.py": {"torch.device", "'cpu'", "'cuda'"},  # what tells the paths apart
}

_METHODS = {"cpu", "cuda", "numpy"}
_DEVICE_NAME = re.compile(r"(cpu|cuda|mps|xpu)(:\d+)?")


def offences(source: str) -> Iterator[tuple[int, str]]:
    """The line and the name of each place in a source text that names a device."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in _METHODS:
                yield node.lineno, f".{node.func.attr}()"
            elif ast.unparse(node.func) == "torch.device":
                yield node.lineno, "torch.device"
        elif isinstance(node, ast.Constant) and _DEVICE_NAME.fullmatch(str(node.value)):
            yield node.lineno, repr(node.value)


def check(root: Path = ROOT) -> list[str]:
    """One line for each offence, ``file:line: what``."""
    found = []
    for package in PACKAGES:
        for path in sorted((root / "recgraph" / package).rglob("*.py")):
            allowed = ALLOWED.get(path.relative_to(root / "recgraph").as_posix(), set())
            found += [
                f"{path.relative_to(root)}:{line}: {what} names a device; use the device of a tensor at hand"
                for line, what in offences(path.read_text(encoding="utf-8"))
                if what not in allowed
            ]
    return found


if __name__ == "__main__":
    problems = check()
    print("\n".join(problems) or f"no device is named in {', '.join(PACKAGES)}")
    sys.exit(bool(problems))
