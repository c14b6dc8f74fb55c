"""The page that lies in an exported folder: what the files are, and a program that recommends from them."""

from __future__ import annotations

from typing import Any

__all__ = ["program", "readme"]

_HISTORIES = """import json
import numpy as np
import onnxruntime

graph = json.load(open("manifest.json"))["graph"]["inputs"][0]
ids = json.load(open("item_ids.json"))
token = {item: place + 1 for place, item in enumerate(ids)}
session = onnxruntime.InferenceSession("model.onnx")

known = [token[item] for item in HISTORY if item in token]  # item ids, the oldest first
length = graph["length"]["greatest"] or max(len(known), graph["length"]["least"])
tokens = known[-length:]
row = np.array([tokens + [0] * (length - len(tokens))], dtype=np.int64)
SCORES
scores[np.array(known, dtype=int) - 1] = -np.inf  # what was seen
best = [ids[place] for place in np.argsort(-scores)[:10]]
"""
_OF_VECTORS = """user = session.run(None, {"history": row})[0][0]
scores = np.load("item_vectors.npy") @ user"""
_OF_SCORES = """scores = session.run(None, {"history": row})[0][0]"""
_TABLE = """import json
import numpy as np
import onnxruntime

ids = json.load(open("item_ids.json"))
users = json.load(open("user_ids.json"))
vectors = np.load("user_vectors.npy")
session = onnxruntime.InferenceSession("model.onnx")

user = vectors[[users.index(USER)]]
scores = session.run(None, {"vectors": user})[0][0]
scores[[ids.index(item) for item in HISTORY if item in ids]] = -np.inf  # what was seen
best = [ids[place] for place in np.argsort(-scores)[:10]]
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


def program(kind: str) -> str:
    """A Python program for a kind of graph; it reads ``HISTORY``, a list of item ids, and ``USER``, a user's id."""
    if kind == "vectors to scores":
        return _TABLE
    return _HISTORIES.replace("SCORES", _OF_VECTORS if kind == "history to vectors" else _OF_SCORES)


def readme(manifest: dict[str, Any]) -> str:
    """The page, from the manifest."""
    kind = manifest["graph"]["kind"]
    given = manifest["graph"]["inputs"][0]
    lines = [
        f"# {manifest['model']['class']}, exported by recgraph {manifest['versions']['recgraph']}",
        "",
        _NOTES[kind],
        "",
    ]
    lines += [f"Input `{given['name']}`: {given['type']} {given['shape']}."]
    if "padding" in given:
        least, greatest = given["length"]["least"], given["length"]["greatest"]
        lengths = f"exactly {least}" if least == greatest else f"from {least} to {greatest or 'any number of'}"
        lines += [f"{given['padding'][0].upper()}{given['padding'][1:]}", f"The length is {lengths} tokens."]
    lines += ["", "| file | what it is |", "| --- | --- |", "| model.onnx | the graph for ONNX runtimes |"]
    lines += ["| model.pt2 | the same for `torch.export.load` |"]
    for table in manifest["tables"].values():
        vectors = f", `{table['vectors']}`" if "vectors" in table else ""
        what = f"{table['count']} ids{' and vectors' if vectors else ''} of column `{table['column']}`"
        lines += [f"| {table['parquet']} (the same: `{table['ids']}`{vectors}) | {what} |"]
    lines += ["", "With onnxruntime and NumPy alone:", "", "```python", program(kind).strip(), "```", ""]
    return "\n".join(lines)
