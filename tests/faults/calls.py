"""What children of the driver call that is no command; errors end it as they end a command."""

from __future__ import annotations

import asyncio
import functools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from recgraph.cli.output import describe

#: seconds
_LONG = 300.0


def _told(function: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(function)
    def call(*arguments: str) -> None:
        try:
            function(*arguments)
        except (Exception, KeyboardInterrupt) as error:
            code, message = describe(error)
            print(f"recgraph: {message}", file=sys.stderr)
            sys.exit(code)

    return call


@_told
def save_run(run: str, folder: str) -> None:
    """``run.save`` of a run that was trained before."""
    from recgraph.runs.record import RunRecord
    from recgraph.runs.run import Run
    from recgraph.serve.recommender import Recommender

    at = Path(run)
    Run.serving(Recommender.load(at / "bundle"), RunRecord.read(at), at).save(folder)


@_told
def read_split(folder: str) -> None:
    """Print what is in a split."""
    from recgraph.data.split import SealedSplit

    split = SealedSplit.load(folder)
    print(split.hash, split.n_users, split.n_items, len(split.train.items.values), len(split.interactions))


@_told
def reload(bundle: str) -> None:
    """Serve a bundle, reload it when the file ``go`` is there, and write what the service then says and recommends."""
    from recgraph.serve.http.service import Limits, Options, Service

    service = Service(Path(bundle), Limits(), Options())
    Path("ready").touch()
    until = time.monotonic() + _LONG
    while not Path("go").exists():
        assert time.monotonic() < until
        time.sleep(0.005)
    told = asyncio.run(service.reload())
    print(json.dumps({**told, "lists": service.served.recommender.recommend(users="all", k=3).rows()}))
