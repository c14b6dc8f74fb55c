"""Programs of experiments/: what counts as another number, and the harness of benchmarks, which
measures nothing.
"""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.same_numbers import (
    FINGERPRINTS,
    differences,
    read,
    same_lists,
    same_number,
    summary,
)
from experiments.same_numbers_cases import CASES
from recgraph import registry

PROGRAM = Path(__file__).resolve().parents[1] / "experiments" / "same_numbers.py"


def members(kind: str) -> set[str]:
    """The keys of the library's own members: other tests register more."""
    return {*registry._MEMBERS[kind]}


@pytest.mark.parametrize(
    ("kind", "default"), [("model", ""), ("loss", ""), ("weight", ""), ("augmenter", "mlp")]
)
def test_every_member_has_a_case(kind: str, default: str) -> None:
    tried = {arguments[0] for arguments in CASES.values()} | {default}
    settings = (setting.partition("=") for arguments in CASES.values() for setting in arguments)
    tried |= {value for name, _, value in settings if name.split(".")[-1] == kind}
    assert members(kind) <= {registry.key(value) for value in tried}


def test_the_numbers_are_those_of_the_fingerprints() -> None:
    """Small trainings of each kind of model, on whatever processor this is."""
    command = [sys.executable, str(PROGRAM), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


def test_every_case_has_a_fingerprint() -> None:
    fingerprints = read(FINGERPRINTS)
    assert {*CASES} == {*fingerprints}
    assert not any("error" in fingerprint for fingerprint in fingerprints.values())


def test_what_is_another_number() -> None:
    assert same_number(1.0, 1.0 + 1e-7, 1e-6)
    assert not same_number(1.0, 1.0 + 1e-5, 1e-6)
    assert same_number(1e-9, 2e-9, 1e-6, scale=1.0)  # the sum of numbers of both signs
    assert same_number(math.nan, math.nan, 1e-6)
    assert not same_number(3, 4, 1e-6)
    assert not same_number("a hash", "another", 1e-6)
    values = np.arange(6.0)
    swapped = values[[1, 0, 2, 3, 4, 5]]
    assert {*differences({"w": summary(values)}, {"w": summary(swapped)}, 1e-6)} == {"w"}
    assert differences({"w": summary(values)}, {"w": summary(values * (1 + 1e-8))}, 1e-6) == {}
    assert {*differences({"w": 1.0}, {"v": 1.0}, 1e-6)} == {"v", "w"}


def test_what_is_another_list() -> None:
    items, scores = [7, 8, 9], [0.9, 0.9, 0.5]
    assert same_lists(items, scores, items, scores, 1e-6)
    assert not same_lists(items, scores, [8, 7, 9], scores, 1e-6)  # the order of ties is drawn
    assert not same_lists(items, scores, [7, 8], scores[:2], 1e-6)
    assert not same_lists(items, scores, items, [0.9, 0.9, 0.4], 1e-6)
    close = [0.9, 0.9 - 1e-9, 0.5]
    assert same_lists(items, close, [8, 7, 9], close, 1e-6)
    assert not same_lists(items, close, [7, 9, 8], close, 1e-6)
