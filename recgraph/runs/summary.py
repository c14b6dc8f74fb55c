"""A run in a line and as a block of a notebook, from its record alone: no data is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recgraph.data.strategies import EVERYTHING
from recgraph.notebook import block, table
from recgraph.runs.record import RunRecord
from recgraph.train.display import duration

__all__ = ["flat_results", "run_html", "run_text"]

_SEEN = {"keep": "seen kept", "exclude": "seen excluded"}


def run_text(record: RunRecord, folder: Path | None) -> str:
    """``Run(sasrec on ml-100k, fitted on train, ndcg@10 0.0812 at epoch 12 of 22, in runs/a)``."""
    parts = [f"{record.model} on {_source(record)}", f"fitted on {record.fitted_on}", _best(record)]
    parts.append("" if folder is None else f"in {folder}")
    return f"{_kind(record)}({', '.join(part for part in parts if part)})"


def run_html(record: RunRecord, folder: Path | None) -> str:
    """The same with sizes, cost and results, as HTML."""
    data = record.data
    facts = {
        "data": _source(record),
        "users": data.n_users,
        "items": data.n_items,
        "nodes": data.nodes,
        "fitted on": record.fitted_on,
        "seed": record.seed,
        "best": _best(record) or None,
        "parameters": record.n_parameters,
        "time": None if record.cost is None else duration(record.cost.seconds),
        "folder": folder,
        "test data read": len(record.unsealed) or None,
    }
    tables = [table(_rows(found), f"results on {part}") for part, found in record.results.items()]
    return block(f"{_kind(record)} of {record.model}", facts, tables)


def flat_results(part: str, found: Any) -> dict[str, float]:
    """One entry of ``record.results`` as single values: ``test/exclude/ndcg@10``, ``nodes/linear/20/macro_f1``."""
    if isinstance(found, Mapping):
        clusters = {f"{part}/{name}": value for name, value in found["clusters"].items()}
        return clusters | {
            f"{part}/{probe}/{labels}/{name}": value
            for probe in ("linear", "logistic")
            for labels, scores in found[probe].items()
            for name, value in scores["mean"].items()
        }
    return {f"{part}/{one['protocol']['seen']}/{name}": v for one in found for name, v in one["metrics"].items()}


def _kind(record: RunRecord) -> str:
    return "NodeRun" if record.task == "nodes" else "Run"


def _source(record: RunRecord) -> str:
    data = record.data
    if data.nodes is not None:
        return data.dataset or f"a graph, {data.target}"
    return data.dataset or ("a log" if data.split in (None, EVERYTHING) else f"{data.split}")


def _best(record: RunRecord) -> str:
    if record.best is None:
        return ""
    metric = record.training.get("metric", "loss")
    return f"{metric} {record.best:.4f} at epoch {record.best_epoch} of {len(record.history)}"


def _rows(found: Any) -> list[dict[str, Any]]:
    """The rows of one entry of ``record.results``: metrics by convention, or the scores of probes."""
    if isinstance(found, Mapping):
        probes = [(name, labels, scores) for name in ("linear", "logistic") for labels, scores in found[name].items()]
        return [{"probe": name, "labels": labels, **scores["mean"]} for name, labels, scores in probes]
    titles = [_SEEN.get(one["protocol"]["seen"], one["protocol_hash"]) for one in found]
    names = dict.fromkeys(name for one in found for name in one["metrics"])
    columns = list(zip(titles, found, strict=True))
    return [{"metric": name} | {title: one["metrics"].get(name) for title, one in columns} for name in names]
