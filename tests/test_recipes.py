"""The recipes of docs/examples: each trains to the losses and the metric of the model that it
writes out.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import recgraph as rg
from recgraph.rng import Generators

EXAMPLES = Path(__file__).resolve().parents[1] / "docs" / "examples"
_TRANSFORMER = {"inner_dim": 64, "attention_dropout": 0.1}
_OF_SEQUENCES = {"hidden_dim": 32, "max_len": 12, "dropout": 0.1}
_SEQUENCES = {"batch_size": 128, "learning_rate": 3e-3}
_PAIRS = {"batch_size": 4096, "learning_rate": 1e-2}
#: recipe -> the same model of the library, and how it is trained
RECIPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "sasrec": (rg.models.SASRec(**_OF_SEQUENCES, encoder=_TRANSFORMER), _SEQUENCES),
    "bsarec": (
        rg.models.BSARec(**_OF_SEQUENCES, encoder=_TRANSFORMER),
        _SEQUENCES | {"batch_size": 256},
    ),
    "hstu": (rg.models.HSTU(**_OF_SEQUENCES, encoder={"time_bias": True}), _SEQUENCES),
    "cl4srec": (rg.models.CL4SRec(**_OF_SEQUENCES, encoder=_TRANSFORMER), _SEQUENCES),
    "mclrec": (
        rg.models.MCLRec(**_OF_SEQUENCES, encoder=_TRANSFORMER, regime="prefix"),
        _SEQUENCES | {"batch_size": 256},
    ),
    "lightgcn": (rg.models.LightGCN(hidden_dim=32), _PAIRS),
    "xsimgcl": (rg.models.XSimGCL(hidden_dim=32), _PAIRS),
    "meowrec": (rg.models.MEOWRec(hidden_dim=32), _PAIRS),
}
_OF_NODES = {"hidden_dim": 32, "raw_features": ("paper", "author", "subject")}
#: the same of models of nodes
OF_NODES: dict[str, tuple[Any, dict[str, Any]]] = {
    "adameow": (rg.models.AdaMEOW, {"paths": {"top_k": 20, "ties": "index"}}),
    "heco": (rg.models.HeCo, {"ties": "index"}),
}
#: and of models that are fitted in one step
FITTED = {
    "ease": rg.models.EASE(),
    "two_stage": rg.models.TwoStage(
        models=("ease", {"name": "itemknn", "k": 20}, "popularity"), candidates=30
    ),
}


def recipe(name: str) -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / f"{name}.py"))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_the_model_of_the_library(name: str) -> None:
    model, training = RECIPES[name]
    split = rg.load_dataset("synthetic").split("leave-one-out")
    run = rg.fit(model, split, seed=0, max_epochs=2, metric="last", **training)
    curve, ndcg = recipe(name)["main"](epochs=2)
    term = "rec" if name == "mclrec" else "loss"  # of its phases it prints the term that all have
    assert curve == pytest.approx([row[term] for row in run.history], rel=1e-6)
    found = rg.evaluate.evaluate(run.model, split.test, seen=("exclude",), cutoffs=(10,))
    assert ndcg == pytest.approx(found["exclude"].metrics["ndcg@10"], rel=1e-6)


def test_meow_is_the_model_of_the_library() -> None:
    meow = recipe("meow")
    curve, accuracy = meow["main"]()
    graph, _ = meow["planted_graph"](Generators(0).fresh("graph"))
    settings = {
        "hidden_dim": 32,
        "paths": {"top_k": 20, "ties": "index"},
        "prototypes": {"n_clusters": (6, 12)},
    }
    model = rg.models.MEOW(metapaths=meow["PATHS"], **settings)
    run = rg.fit_graph(model, graph, seed=0, max_epochs=10, learning_rate=5e-3, metric="last")
    assert curve[:10] == pytest.approx([row["loss"] for row in run.history], rel=1e-6)
    assert accuracy > 0.6  # a third at chance


@pytest.mark.parametrize("name", OF_NODES)
def test_a_recipe_of_nodes_is_the_model_of_the_library(name: str) -> None:
    made, (cls, settings) = recipe(name), OF_NODES[name]
    graph, _ = made["planted_graph"](Generators(0)["graph"])
    model = cls(metapaths=made["PATHS"], **_OF_NODES, **settings)
    run = rg.fit_graph(model, graph, seed=0, max_epochs=3, metric="last", learning_rate=5e-3)
    assert made["main"](epochs=3)[0] == pytest.approx(
        [row["loss"] for row in run.history], rel=1e-6
    )


@pytest.mark.parametrize("name", FITTED)
def test_a_recipe_in_one_step_is_the_model_of_the_library(name: str) -> None:
    split = rg.load_dataset("synthetic").split("leave-one-out")
    run = rg.fit(FITTED[name], split, seed=0)
    found = rg.evaluate.evaluate(run.model, split.test, seen=("exclude",), cutoffs=(10,))
    made = recipe(name)["main"]()
    assert (made[1] if name == "ease" else made) == pytest.approx(
        found["exclude"].metrics["ndcg@10"], rel=1e-6
    )
    if name == "ease":
        torch.testing.assert_close(made[0], run.model.weights, rtol=1e-6, atol=1e-6)


def test_recipes_fit_on_a_screen() -> None:
    lengths = {
        path.name: len(path.read_text("utf-8").splitlines()) for path in EXAMPLES.glob("*.py")
    }
    assert max(lengths.values()) <= 150, lengths
