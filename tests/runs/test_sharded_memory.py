"""A run with a sharded table: no rank makes a tensor as large as the table, and the bundle is that of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from tests.launched import on_ranks
from tests.runs.sharded_memory_cases import N_ITEMS, TABLE, WIDTH, all_runs, run

MODELS = {"sasrec": "item_embedding.weight", "bprmf": "embedding.weight"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, Any]]:
    return on_ranks(2, all_runs, folder / "two")


@pytest.fixture(scope="module")
def one(folder: Path) -> dict[str, dict[str, Any]]:
    return {model: run(folder / "one" / model, model) for model in MODELS}


@pytest.mark.parametrize("model", MODELS)
def test_no_rank_makes_a_tensor_of_the_size_of_the_table(
    model: str, two: list[dict[str, Any]], one: dict[str, dict[str, Any]]
) -> None:
    for done in ("begun", "gone on", "an evaluation"):
        assert one[model][done][0] >= TABLE  # what is measured is there to be seen
        for rank in two:
            largest, of = rank[model][done]
            # a rank's rows, and up to half as much again for tiles of the ranking and blocks that are written
            assert TABLE / 4 < largest < 0.75 * TABLE, f"{done}: {of}"


@pytest.mark.parametrize("model", MODELS)
def test_the_run_is_that_of_one_process(
    model: str, two: list[dict[str, Any]], one: dict[str, dict[str, Any]], folder: Path
) -> None:
    expected = one[model]
    for rank in two:
        mine = rank[model]
        assert mine["is sharded"]
        assert not expected["is sharded"]
        assert mine["n_parameters"] == expected["n_parameters"]
        assert mine["valid"] == pytest.approx(expected["valid"], abs=1e-3)
        best = mine["history"][mine["best epoch"] - 1]
        assert mine["valid"] == {name: best.get(name, value) for name, value in mine["valid"].items()}
        for row, other in zip(mine["history"], expected["history"], strict=True):
            assert row == pytest.approx(other, rel=1e-3, abs=1e-3)
        for name, value in expected["weights"].items():
            if name.endswith("qkv.bias"):  # attention does not depend on that of keys: its gradient is rounding
                continue
            differ = ~torch.isclose(mine["weights"][name], value, rtol=1e-3, atol=1e-5)
            # Adam makes steps of gradients that are nothing but rounding, in float32: a few numbers of a million
            assert int(differ.sum()) <= 10, name
        assert mine["recommended"].equals(two[0][model]["recommended"])
    newest = max((folder / "two" / model / "checkpoints").glob("step-*"))
    assert len(list(newest.glob("rows-*-of-00002.safetensors"))) == 2


def test_the_table_is_whole_in_the_bundle_and_nowhere_else(two: list[dict[str, Any]], folder: Path) -> None:
    places = {"model": folder / "two" / "sasrec" / "bundle" / "model.safetensors"}
    places["rest"] = max((folder / "two" / "sasrec" / "checkpoints").glob("step-*")) / "model.safetensors"
    shapes = {}
    for place, path in places.items():
        with safe_open(path, "pt") as file:
            shapes[place] = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    assert shapes["model"].pop(MODELS["sasrec"]) == [N_ITEMS + 1, WIDTH]
    assert shapes["model"] == shapes["rest"]


def test_a_run_without_a_folder_has_a_whole_model(two: list[dict[str, Any]]) -> None:
    for rank in two:
        assert not rank["in memory"]["is sharded"]
        assert len(rank["in memory"]["weights"][MODELS["sasrec"]]) == N_ITEMS + 1
        for name, value in two[0]["in memory"]["weights"].items():
            assert torch.equal(rank["in memory"]["weights"][name], value)
