"""Values of users in a Parquet file, with the protocol that made them: what a significance test needs later."""

from __future__ import annotations

import json
import os
from pathlib import Path

import polars as pl

from recgraph.data.files import make_folder, replace_file
from recgraph.evaluate.protocol import Protocol
from recgraph.evaluate.results import Result

_KEY = "recgraph"


def save_users(result: Result, path: str | Path) -> None:
    """Write a result: a row a user, a column a metric; protocol and overall values in the file's metadata.

    Any reader of Parquet reads it; :func:`load_users` gives the result back.
    """
    path = Path(path)
    about = {
        "protocol": result.protocol.model_dump(mode="json"),
        "protocol_hash": result.hash,
        "overall": result.metrics,
        "n_unreachable_users": result.n_unreachable_users,
    }
    make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        result.users_frame().write_parquet(temporary, metadata={_KEY: json.dumps(about)})
        replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def load_users(path: str | Path) -> Result:
    """Read what :func:`save_users` wrote.

    Raises:
        ValueError: the file is not of this library, or its protocol is not the one that its hash names.
    """
    metadata = pl.read_parquet_metadata(path)
    if _KEY not in metadata:
        raise ValueError(f"{path} holds no protocol; give a file that save_users wrote")
    about = json.loads(metadata[_KEY])
    protocol = Protocol.of(about["protocol"])
    if protocol.hash != about["protocol_hash"]:
        raise ValueError(f"{path} names protocol {about['protocol_hash']}, but its protocol has hash {protocol.hash}")
    frame = pl.read_parquet(path)
    who, metrics = frame.columns[0], frame.columns[1:]
    known = who == "user_id"
    return Result(
        protocol,
        pl.arange(frame.height, eager=True, dtype=pl.Int64).to_numpy() if known else frame[who].to_numpy(),
        {name: frame[name].to_numpy() for name in metrics},
        about["overall"],
        about["n_unreachable_users"],
        frame[who] if known else None,
    )
