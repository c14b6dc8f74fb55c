"""The command ``recgraph serve``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from recgraph.cli.output import note

_BUNDLE = "A bundle, or a folder that `recgraph train` wrote."
_HOST = "Address to listen on; 0.0.0.0 answers other machines, too."
_PORT = "Port to listen on; 0 takes a free one."
_THREADS = "Batches ranked at the same time, each on one core."
_ADMIN = "Also answer POST /reload."
_KEYS = "A file of API keys; a request needs one of them, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."
_MOST = "Connections at a time; one that waits for its client gives way to a new one.  [default: by ulimit -n]"
_POLL = "Seconds between two looks at the folder for a new bundle."


def serve(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help=_BUNDLE)],
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help=_PORT)] = 8000,
    host: Annotated[str, typer.Option(help=_HOST)] = "127.0.0.1",
    threads: Annotated[int, typer.Option(min=1, help=_THREADS)] = 1,
    device: Annotated[str, typer.Option(help="Where the model computes, e.g. cuda.")] = "cpu",
    max_k: Annotated[int, typer.Option(min=1, help="Longest list that is answered.")] = 1000,
    max_users: Annotated[int, typer.Option(min=1, help="Users, histories or items of one request.")] = 256,
    max_history: Annotated[int, typer.Option(min=1, help="Items of one history.")] = 10_000,
    max_body_kib: Annotated[int, typer.Option(min=1, help="Size of a request's body.")] = 1024,
    poll: Annotated[float, typer.Option(min=0.01, metavar="S", help=_POLL)] = 0.5,
    admin: Annotated[bool, typer.Option("--admin", help=_ADMIN)] = False,
    api_key_file: Annotated[Path | None, typer.Option(metavar="FILE", help=_KEYS)] = None,
    limit_concurrency: Annotated[int | None, typer.Option(min=1, help=_MOST)] = None,
) -> None:
    """Answer requests over HTTP: POST /recommend, POST /similar, GET /health, GET /metrics.

    A new bundle in the same place takes over without a pause; SIGHUP looks for one at once. SIGTERM answers the
    requests in flight and stops.
    """
    import torch

    from recgraph.serve.http import Service, listen, run
    from recgraph.serve.service import Limits

    torch.set_num_threads(1)
    # the thread that reads and writes waits for the one that ranks this long, at most
    sys.setswitchinterval(0.0005)
    limits = Limits(k=max_k, users=max_users, history=max_history, body_kib=max_body_kib)
    keys = [] if api_key_file is None else api_key_file.read_text(encoding="utf-8").split()
    if api_key_file is not None and not keys:
        raise ValueError(f"--api-key-file {api_key_file} holds no key; write one a line")
    with listen(host, port) as listening:
        service = Service(bundle, limits, threads=threads, device=device, poll_s=poll, admin=admin, api_keys=keys)
        at = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        served = service.predictor.recommender
        line = f"{served!r} on {at}; Ctrl-C stops" + (f"; {served.held_out}" if served.held_out else "")
        run(service, listening, lambda: note(line), limit_concurrency)
