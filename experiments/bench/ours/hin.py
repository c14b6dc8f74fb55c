"""HeCo's data sets through the library: the card's graph, and models with the published settings."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from recgraph import registry
from recgraph.data.catalog.cards import find_card
from recgraph.data.catalog.graphs import prepare_graph
from recgraph.graph.hetero import HeteroGraph

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def read(folder: str) -> tuple[HeteroGraph, tuple[str, ...]]:
    """The graph of HeCo's folder ``acm``, ``dblp``, ..., and its meta-paths."""
    path = Path(folder)
    card = find_card(path.name)
    return prepare_graph(card, path, card.name).graph, tuple(card.paths)


def published(model: str, dataset: str) -> dict[str, Any]:
    """The settings of ``experiments/configs``, of model and training together."""
    return tomllib.loads((CONFIGS / f"{model.lower()}-{dataset}.toml").read_text())


def build(options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model, built on the graph and with initial weights, and the settings of its optimiser."""
    graph, paths = read(options["data"])
    known = published(options["model"], Path(options["data"]).name)
    cls = registry.load("model", options["model"])
    settings = {name: value for name, value in known.items() if name in cls.Config.model_fields}
    model = cls(**{"metapaths": paths, **settings}).build(graph, seed=0)
    return model, {name: known[name] for name in ("learning_rate", "weight_decay") if name in known}
