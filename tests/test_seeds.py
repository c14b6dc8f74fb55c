"""What tests draw of the generators of the process is the same in every order of tests."""

from __future__ import annotations

import random
import zlib

import numpy as np
import pytest
import torch


def drawn() -> list[float]:
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]  # noqa: NPY002 (what is seeded)


def expected(name: str) -> list[float]:
    seed = zlib.crc32(name.encode())
    generator = torch.Generator().manual_seed(seed)
    return [
        random.Random(seed).random(),
        np.random.RandomState(seed).rand(),
        float(torch.rand((), generator=generator)),
    ]


OF_MODULE = drawn()


@pytest.fixture(scope="module")
def of_fixture() -> list[float]:
    return drawn()


@pytest.mark.parametrize("turn", [0, 1])
def test_draws_of_a_test_a_fixture_and_a_module_depend_on_their_names(
    request: pytest.FixtureRequest, of_fixture: list[float], turn: int
) -> None:
    assert drawn() == expected(request.node.nodeid)
    assert of_fixture == expected("tests/test_seeds.py::of_fixture")
    assert expected("tests/test_seeds.py") == OF_MODULE
