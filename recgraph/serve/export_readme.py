"""The page that lies in an exported folder: what the files are, and a program that recommends from them."""

from __future__ import annotations

from typing import Any

__all__ = ["program", "readme"]

_HISTORIES = """import json
from pathlib import Path
import numpy as np
import onnxruntime

graph = json.loads(Path("manifest.json").read_text())["graph"]["inputs"][0]
ids = json.loads(Path("item_ids.json").read_text())
token = {item: place + 1 for place, item in enumerate(ids)}
session = onnxruntime.InferenceSession("model.onnx")

known = [token[item] for item in HISTORY if item in token]  # item ids, the oldest first
if HISTORY and not known:
    raise SystemExit(f"no item of HISTORY is known; ids are written like {ids[0]!r}")
length = graph["length"]["greatest"] or max(len(known), graph["length"]["least"])
tokens = known[-length:]
row = np.array([tokens + [0] * (length - len(tokens))], dtype=np.int64)
SCORES
scores[np.array(known, dtype=int) - 1] = -np.inf  # what was seen
order = np.load("item_order.npy")  # that of equal scores
best = order[np.argsort(-scores[order], kind="stable")][:10]
best = [ids[place] for place in best if np.isfinite(scores[place])]
"""
_OF_VECTORS = """user = session.run(None, {"history": row})[0][0]
scores = np.load("item_vectors.npy") @ user"""
_OF_SCORES = """scores = session.run(None, {"history": row})[0][0]"""
_GAPS = """times = np.array([time for time, item in zip(TIMES, HISTORY) if item in token], dtype=np.int64)
before = 1 + np.frexp(np.maximum(np.diff(times), 0).astype(np.float64))[1]  # see the manifest
gaps = [0, *np.minimum(before, 64)][: len(known)][-length:]
gaps = np.array([gaps + [0] * (length - len(tokens))], dtype=np.int64)
"""
_TABLE = """import json
from pathlib import Path
import numpy as np
import onnxruntime

ids = json.loads(Path("item_ids.json").read_text())
users = json.loads(Path("user_ids.json").read_text())
vectors = np.load("user_vectors.npy")
session = onnxruntime.InferenceSession("model.onnx")

user = vectors[[users.index(USER)]]
scores = session.run(None, {"vectors": user})[0][0]
known = [ids.index(item) for item in HISTORY if item in ids]
if HISTORY and not known:
    raise SystemExit(f"no item of HISTORY is known; ids are written like {ids[0]!r}")
scores[known] = -np.inf  # what was seen
order = np.load("item_order.npy")  # that of equal scores
best = order[np.argsort(-scores[order], kind="stable")][:10]
best = [ids[place] for place in best if np.isfinite(scores[place])]
"""
_NOTES = {
    "history to vectors": (
        "The graph turns histories into vectors of users; scores are inner products with the vectors of items."
    ),
    "history to scores": "The graph turns histories into scores of all items.",
    "vectors to scores": (
        "Users are a table of vectors; the graph turns them into scores of all items. A new user's vector comes from "
        "the library: `user_vectors(histories=...)`."
    ),
}


def program(kind: str, reads_gaps: bool = False) -> str:
    """A Python program for a kind of graph.

    It reads ``HISTORY``, a list of item ids, and, where time gaps are read, their ``TIMES``, whole numbers in the unit
    that the manifest names; or ``USER``, a user's id.
    """
    if kind == "vectors to scores":
        return _TABLE
    made = _HISTORIES.replace("SCORES", _OF_VECTORS if kind == "history to vectors" else _OF_SCORES)
    if not reads_gaps:
        return made
    head, sign, rest = made.partition("user = session")
    return head + _GAPS + sign + rest.replace('{"history": row}', '{"history": row, "gaps": gaps}')


def readme(manifest: dict[str, Any]) -> str:
    """The page, from the manifest."""
    kind = manifest["graph"]["kind"]
    inputs = manifest["graph"]["inputs"]
    lines = [
        f"# {manifest['model']['class']}, exported by recgraph {manifest['versions']['recgraph']}",
        "",
        _NOTES[kind],
        "",
    ]
    for given in inputs:
        lines += [f"Input `{given['name']}`: {given['type']} {given['shape']}."]
        if "padding" in given:
            least, greatest = given["length"]["least"], given["length"]["greatest"]
            lengths = f"exactly {least}" if least == greatest else f"from {least} to {greatest or 'any number of'}"
            text = given["padding"]
            lines += [f"{text[0].upper()}{text[1:]}", f"The length is {lengths} tokens.", ""]
    lines += ["", "| file | what it is |", "| --- | --- |", "| model.onnx | the graph for ONNX runtimes |"]
    lines += ["| model.pt2 | the same for `torch.export.load` |"]
    for table in manifest["tables"].values():
        vectors = f", `{table['vectors']}`" if "vectors" in table else ""
        what = f"{table['count']} ids{' and vectors' if vectors else ''} of column `{table['column']}`"
        what += f"; in JSON they are {table['ids_are']}"
        lines += [f"| {table['parquet']} (the same: `{table['ids']}`{vectors}) | {what} |"]
    lines += ["| item_order.npy | places of items in the order in which equal scores are listed |"]
    lines += [
        "",
        "With onnxruntime and NumPy alone:",
        "",
        "```python",
        program(kind, len(inputs) > 1).strip(),
        "```",
        "",
    ]
    return "\n".join(lines)
