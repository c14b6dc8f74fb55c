"""Write a recommender for other runtimes: a graph as ``torch.export`` and ONNX, vectors with their
ids, a manifest.

    manifest.json          what is in the folder and how to call the graph
    model.onnx, model.pt2  the graph
    items.parquet          ids in the order of their indices and, where the model has some, their vectors
    item_ids.json          the same ids (numbers, booleans or texts)
    item_order.npy         [n_items] int64: places in items.parquet, in the order in which equal scores are listed
    item_vectors.npy       [n_items, D] float32
    users.parquet, user_ids.json, user_vectors.npy   of models whose users are a table

There are three kinds of graphs. ``history to vectors``: padded histories to user vectors, whose
inner products with the items' are scores; ``history to scores``: padded histories to scores of all
items; ``vectors to scores``: user vectors to scores, of models whose users are a table.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn

from recgraph import __version__
from recgraph.data.batches import Query
from recgraph.data.columns import TimeUnit
from recgraph.data.ids import family
from recgraph.evaluate.ranking import device_of, evaluating
from recgraph.evaluate.topk import tie_order
from recgraph.files import replacing_folder
from recgraph.models.base import PaddedForm
from recgraph.serve.request import plain
from recgraph.serve.vectors import encode_items, encode_users, vector_frame

FORMAT = 2
#: ONNX files hold 2 GiB at most; greater weights lie in a file beside
_INLINE_BYTES = 1_500_000_000
_HISTORY = (
    "int64 tokens, one row a user, oldest item first: the token of an item is its place in items.parquet plus 1. "
    "Rows are padded on the right with 0; a row of zeros is a user of whom nothing is known."
)
_GAPS = (
    "int64, for each token the time since the one before it in the whole history: 0 where that is not known (the first "
    "item) and at the padding, 1 at the same time, else 2 + floor(log2(gap)) up to 64, of whole numbers in {unit}."
)
#: what a model has learnt gaps in: the library counts dates, and seconds with fractions, in
#: microseconds
_UNITS: dict[TimeUnit, str] = {
    "none": "the unit of the log's times",
    "own": "the unit of the log's times",
    "seconds": "microseconds, a million times the log's seconds",
    "us": "microseconds",
}


class _Scores(nn.Module):
    """[B, D] user vectors -> [B, n_items] scores."""

    items: Tensor

    def __init__(self, items: Tensor) -> None:
        super().__init__()
        self.register_buffer("items", items.T.contiguous())

    def forward(self, vectors: Tensor) -> Tensor:
        return vectors @ self.items


def export(of: Any, folder: Path) -> dict[str, Any]:
    """Write the folder, of a recommender, in the place of an earlier export -> the manifest."""
    try:
        import onnx
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{error.name} is not installed; pip install 'recgraph[export]'"
        ) from None
    model = of.model
    columns = of.columns
    form = model.padded_form()
    vectors = None
    if model.has_vectors:
        vectors = encode_items(model)
    elif form is None:
        raise ValueError(
            f"{type(model).__name__} cannot be exported: it has scores alone and no padded_form()"
        )
    with replacing_folder(folder) as into:
        device = device_of(model)
        try:
            with evaluating(model.to("cpu")):  # where exports are made to run
                if form is None:
                    graph = _write_vectors(vectors, into)
                else:
                    graph = _write_histories(form, _UNITS[of.time_unit], into)
        finally:
            model.to(device)
        item_ids = of.items.ids(range(len(of.items)))
        tables = {"items": _write_ids(into, "item", columns.item, item_ids, vectors)}
        if form is None:
            query = Query(torch.arange(of.seen.n_rows), of.seen, of.times)
            with evaluating(model):
                index = model.can_rank(query.to(device_of(model))).nonzero().flatten().to("cpu")
            user_vectors = encode_users(model, query.take(index)).float().to("cpu")
            user_ids = of.users.ids(index)
            tables["users"] = _write_ids(into, "user", columns.user, user_ids, user_vectors)
        np.save(into / "item_order.npy", tie_order(len(of.items), 0).numpy())
        config = model.config.model_dump(mode="json")
        manifest = {
            "recgraph_export": FORMAT,
            "versions": {
                "recgraph": __version__,
                "torch": torch.__version__,
                "onnx": onnx.__version__,
            },
            "model": {"key": model.key(), "class": type(model).__name__, "config": config},
            "record": {
                name: of.record[name] for name in ("seed", "fitted_on", "data") if name in of.record
            },
            "graph": graph,
            "tables": tables,
        }
        (into / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return manifest


def _write_vectors(vectors: Tensor | None, folder: Path) -> dict[str, Any]:
    """The graph from user vectors to scores -> how it is called."""
    assert vectors is not None
    described = {"name": "vectors", "type": "float32", "shape": ["batch", vectors.shape[1]]}
    dynamic = {0: torch.export.Dim("batch", min=1)}
    return _write_graph(
        _Scores(vectors), [described], torch.zeros(3, vectors.shape[1]), dynamic, "scores", folder
    )


def _write_histories(form: PaddedForm, unit: str, folder: Path) -> dict[str, Any]:
    """The graph from padded histories to user vectors or scores -> how it is called; ``unit`` is
    that of times.
    """
    dynamic: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    # torch takes a length of 1 for a constant
    least = max(form.shortest, 2)
    greatest = form.longest
    length: int | str = "length"
    example_length = min(greatest or 4, 4)
    if greatest is not None and greatest <= least:
        length = least = example_length = greatest
    else:
        dynamic[1] = torch.export.Dim("length", min=least, max=greatest)
    example = torch.zeros(3, example_length, dtype=torch.int64)
    shared = {
        "type": "int64",
        "shape": ["batch", length],
        "length": {"least": least, "greatest": greatest},
    }
    inputs: list[dict[str, Any]] = [{"name": "history", **shared, "padding": _HISTORY}]
    if form.reads_gaps:
        inputs.append({"name": "gaps", **shared, "padding": _GAPS.format(unit=unit)})
    return _write_graph(form.module, inputs, example, dynamic, form.gives, folder)


def _write_graph(
    module: nn.Module,
    inputs: list[dict[str, Any]],
    example: Tensor,
    dynamic: dict[int, Any],
    gives: str,
    folder: Path,
) -> dict[str, Any]:
    """Write ``model.pt2`` and ``model.onnx`` -> how they are called; each input is like
    ``example``, with ``dynamic`` dimensions, and the output is called ``gives``."""
    examples = tuple(example.clone() for _ in inputs)
    with _quiet():
        shapes = {each["name"]: dynamic for each in inputs}
        program = torch.export.export(module.eval(), examples, dynamic_shapes=shapes)
        torch.export.save(program, folder / "model.pt2")
        size = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
        exported = torch.onnx.export(
            program,
            (),
            folder / "model.onnx",
            input_names=list(shapes),
            output_names=[gives],
            dynamo=True,
            external_data=size > _INLINE_BYTES,
            verbose=False,
        )
    assert exported is not None
    width = int(module(*examples).shape[1])
    return {
        "kind": f"{inputs[0]['name']} to {gives}",
        "onnx": "model.onnx",
        "torch": "model.pt2",
        "inputs": inputs,
        "outputs": [{"name": gives, "type": "float32", "shape": ["batch", width]}],
        "opset": int(exported.model.opset_imports[""]),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Within the block the exporter's own notes, which name its internals, are not shown."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _write_ids(
    folder: Path, role: str, column: str, ids: pl.Series, vectors: Tensor | None
) -> dict[str, Any]:
    """Ids, and vectors where there are some, as Parquet and for readers of JSON and NumPy."""
    values = plain(ids)
    # JSON has no infinite number
    is_infinite = ids.dtype.is_float() and not ids.is_finite().all()
    if is_infinite or family(ids.dtype) not in ("integers", "floats", "booleans"):
        values = list(map(str, values))
    (folder / f"{role}_ids.json").write_text(json.dumps(values), encoding="utf-8")
    frame = ids.alias(column).to_frame()
    described = {
        "column": column,
        "count": len(ids),
        "parquet": f"{role}s.parquet",
        "ids": f"{role}_ids.json",
    }
    if vectors is not None:
        frame = vector_frame(column, ids, vectors, "polars")
        np.save(folder / f"{role}_vectors.npy", vectors.numpy())
        described["vectors"] = f"{role}_vectors.npy"
    frame.write_parquet(folder / f"{role}s.parquet")
    return described
