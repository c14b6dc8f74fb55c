"""Changed copies of bundles, checkpoints, graphs, studies, records and cards: read, or refused by a documented error.

A quick sample here; ``make fuzz`` runs each for ``FUZZ_MINUTES``. Checksums inside are left out, and those of a bundle
are made again, as one who changes it on purpose does.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import campaign
import forging
import mutator
import polars as pl
import pytest
from campaign import Target

SMALL = {"hidden_dim": 8, "n_heads": 2, "n_layers": 1, "max_len": 5}
#: what replaces a table: types and values that ids, edges and features do not have
FRAMES = (
    {"id": [[1], [2]]},
    {"id": [None, None]},
    {"id": [1.5, float("nan")]},
    {"uuid": ["x", "y"]},
    {"source": [-1, 2**40], "target": [0, 0]},
    {"source": ["a"], "target": [True]},
    {"column": [10**9, -1], "weight": [float("nan"), 1.0]},
    {"id": []},
    {"id": ["x" * 100_000] * 3},
    {"a": [{"b": {"c": [1]}}], "id": [b"\xff"]},
)


def change(folder: Path, rng: random.Random) -> None:
    """Change a file of a folder of files, and sign what has checksums."""
    tables = sorted(folder.rglob("*.parquet"))
    if tables and rng.random() < 0.15:
        pl.DataFrame(rng.choice(FRAMES), strict=False).write_parquet(rng.choice(tables))
    else:
        campaign.change_one(folder, rng)
        if rng.random() < 0.3:
            campaign.change_one(folder, rng)
    sign(folder)


def sign(folder: Path) -> None:
    """Make the checksums of a bundle those of its files."""
    for path in folder.rglob("config.json"):
        with contextlib.suppress(ValueError, OSError, AttributeError, TypeError, KeyError, RecursionError):
            forging.signed(path.parent)


def unsigned(folder: Path) -> None:
    """Take the checksums out of files and folders, as those of earlier versions have none."""
    for path in sorted(file for file in folder.rglob("*") if file.is_file()):
        if path.name == "files.json":
            path.unlink()
        elif path.suffix == ".json":
            values = json.loads(path.read_text(encoding="utf-8"))
            values.pop("imprint", None)
            if path.name == "graph.json":
                values.pop("files", None)
            path.write_text(json.dumps(values), encoding="utf-8")
        elif path.suffix in (".parquet", ".safetensors"):
            data = path.read_bytes().replace(b"recgraph.imprint", b"recgraph.another")
            path.write_bytes(data.replace(b" crc32 ", b" other "))
    sign(folder)


def _write_bundle(folder: Path) -> None:
    from recgraph import registry
    from recgraph.data.interactions import Interactions
    from recgraph.models.base import Space
    from recgraph.serve.recommender import Recommender

    rows = [(f"u{u}", (u * 7 + i * 3) % 20, i) for u in range(12) for i in range(6)]
    data = Interactions.from_frame(
        pl.DataFrame(rows, schema=["u", "i", "t"], orient="row"),
        user="u",
        item="i",
        timestamp="t",
        item_features=pl.DataFrame({"i": [*range(20)], "title": [f"film {n}" for n in range(20)]}),
    )
    split = data.split("leave-one-out")
    model = registry.load("model", "sasrec")(**SMALL).build(Space(n_users=data.n_users, n_items=data.n_items), 1)
    Recommender.for_split(model, split, {"metrics": {"ndcg@10": 0.5}}).save(folder / "bundle")


def _read_bundle(folder: Path) -> Any:
    import recgraph

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = recgraph.load(folder / "bundle")
    return loaded, getattr(loaded, "popularity", None), repr(loaded)


def _graph() -> Any:
    import numpy as np
    import scipy.sparse as sp

    from recgraph.graph.hetero import HeteroGraph

    edges = {("a", "to", "b"): (np.array([0, 1, 2, 2]), np.array([0, 0, 1, 2]))}
    features = {"a": np.eye(3, dtype=np.float32), "b": sp.csr_matrix(np.eye(3, 5, dtype=np.float32))}
    return HeteroGraph.from_edge_lists({"a": 3, "b": 3}, edges, features)


def _write_graph(folder: Path) -> None:
    import torch

    from recgraph.graph.node_task import NodeSplit, NodeTask

    _graph().save(folder / "graph")
    part = torch.tensor([0]), torch.tensor([1]), torch.tensor([2])
    NodeTask("a", torch.tensor([0, 1, 1]), {"one": NodeSplit(*part)}, ("a-b-a",)).save(folder / "graph")


def _read_graph(folder: Path) -> Any:
    from recgraph.graph.hetero import HeteroGraph
    from recgraph.graph.node_task import NodeTask

    graph = HeteroGraph.load(folder / "graph")
    return graph, repr(graph), NodeTask.load(folder / "graph").n_classes


def _write_embedder(folder: Path) -> None:
    from recgraph.models.heterogeneous.meow import MEOW
    from recgraph.serve.embedder import Embedder

    model = MEOW(metapaths=("a-b-a",), hidden_dim=8).build(_graph(), 0)
    Embedder.of(model, "a", {"x": 1}).save(folder / "bundle")


def _read_embedder(folder: Path) -> Any:
    import recgraph

    loaded = recgraph.load(folder / "bundle")
    return loaded.vectors, repr(loaded), loaded.model


def _write_checkpoint(folder: Path) -> None:
    import torch

    from recgraph.train import checkpoint

    tensors = {"w": torch.ones(3, 2), "b": torch.zeros(2)}
    state = {"epoch": 1, "step": 7, "history": [{"loss": 0.5}], "stopping": {"best": None}}
    saved = checkpoint.Checkpoint(tensors, {"model/0/exp_avg": torch.zeros(3, 2)}, {"x": torch.arange(4)}, state)
    rows = folder / checkpoint.rows_name(0, 1)
    checkpoint.save_tensors({"model/t": torch.ones(4, 2), "optimisers/model/1/step": torch.ones(4)}, rows)
    checkpoint.save(folder / "checkpoints", saved, 7, rows=(rows,))


def _read_checkpoint(folder: Path) -> Any:
    from recgraph.train import checkpoint

    found = checkpoint.read_latest(folder / "checkpoints")
    return found and found[1].state


def _write_study(folder: Path) -> None:
    old = Path(__file__).resolve().parents[1] / "tuning" / "old_study"
    shutil.copytree(old, folder / "study")


def _change_study(folder: Path, rng: random.Random) -> None:
    """Mostly a record of the journal, by its structure."""
    path = folder / "study" / "study.journal"
    if rng.random() < 0.3:
        change(folder, rng)
        return
    lines = path.read_bytes().splitlines(keepends=True)
    for _ in range(rng.choice((1, 1, 3))):
        at = rng.randrange(len(lines))
        if rng.random() < 0.8:
            with contextlib.suppress(RecursionError):  # a line that was nested before
                lines[at] = json.dumps(mutator.mutate_json(json.loads(lines[at]), rng)).encode() + b"\n"
        elif rng.random() < 0.5:
            lines.insert(at, lines[rng.randrange(len(lines))])
        else:
            del lines[at]
    path.write_bytes(b"".join(lines))


def _read_study(folder: Path) -> Any:
    from recgraph.bounded.files import named
    from recgraph.tuning.finding import find_study
    from recgraph.tuning.report import page

    with find_study(str(folder / "study")) as (study, storage), named(Path(storage.dashboard)):
        return page(study, storage.dashboard)


def _write_record(folder: Path) -> None:
    from recgraph.runs.record import DataRecord, RunRecord

    record = RunRecord(
        model="sasrec",
        config=dict(SMALL),
        training={"max_epochs": 3},
        seed=0,
        fitted_on="train",
        data=DataRecord(dataset="synthetic", settings={"split": "leave-one-out"}, n_users=3, n_items=4),
        history=[{"epoch": 1, "loss": 0.5}],
        results={"test": {"ndcg@10": 0.25}},
    )
    record.write(folder)


def _read_record(folder: Path) -> Any:
    from recgraph.runs.record import RunRecord

    return RunRecord.read(folder).to_json()


def _write_card(folder: Path) -> None:
    import zipfile

    with zipfile.ZipFile(folder / "log.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("toy/log.dat", "a::1::5::10\nb::2::1::20\na::2::4::30\n" * 3)
    cards = Path(__file__).resolve().parents[2] / "datasets"
    for name in ("ml-100k", "acm"):
        shutil.copy(cards / f"{name}.toml", folder)
    (folder / "toy.toml").write_text(
        'name = "toy"\ntitle = "t"\ndescription = "d"\nlicence = "l"\ncitation = "c"\nacknowledgement = "a"\n'
        '[layout.interactions.columns]\nuser_id = "text"\nitem_id = "int"\nrating = "float"\ntimestamp = "int"\n'
        '[[sources]]\nkind = "local"\nfile = "log.zip"\n[sources.files.interactions]\nmember = "toy/log.dat"\n'
        'format = "delimited"\nseparator = "::"\n'
    )


def _read_card(folder: Path) -> Any:
    from recgraph.data.catalog.cards import Card
    from recgraph.data.catalog.logs import prepare_log

    hashes = [Card.load(path).hash for path in sorted(folder.glob("*.toml"))]
    card = Card.load(folder / "toy.toml")
    return hashes, prepare_log(card, folder / "log.zip")  # type: ignore[arg-type]


def _plain(write: Callable[[Path], None]) -> Callable[[Path], None]:
    def written(folder: Path) -> None:
        write(folder)
        unsigned(folder)

    return written


def _errors() -> dict[str, tuple[type[BaseException], ...]]:
    from recgraph.config import ConfigError
    from recgraph.data.catalog.sources import CountError, SourceError
    from recgraph.data.errors import DataError
    from recgraph.graph.schema import GraphError
    from recgraph.serve.bundle import BundleError
    from recgraph.train.checkpoint import CheckpointError

    return {
        "bundle": (BundleError,),
        "checkpoint": (CheckpointError,),
        "graph": (DataError, GraphError, FileNotFoundError),
        "study": (ValueError, FileNotFoundError),
        "record": (ValueError,),
        "card": (ConfigError, SourceError, DataError, CountError),
    }


ERRORS = _errors()
BUNDLE = Target(_plain(_write_bundle), _read_bundle, ERRORS["bundle"], change)
EMBEDDER = Target(_plain(_write_embedder), _read_embedder, ERRORS["bundle"], change)
GRAPH = Target(_plain(_write_graph), _read_graph, ERRORS["graph"], change)
CHECKPOINT = Target(_plain(_write_checkpoint), _read_checkpoint, ERRORS["checkpoint"], change)
# a message about a record of a journal names the storage, which a changed study.json may say is elsewhere
STUDY = Target(_write_study, _read_study, ERRORS["study"], _change_study, names=False)
RECORD = Target(_plain(_write_record), _read_record, ERRORS["record"], change)
# what a card does not say well names the card or the source
CARD = Target(_write_card, _read_card, ERRORS["card"], change, names=False)


@pytest.mark.parametrize("target", ["BUNDLE", "EMBEDDER", "GRAPH", "CHECKPOINT", "STUDY", "RECORD", "CARD"])
def test_changed_copies_are_read_or_refused(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if not campaign.minutes():  # a machine that runs other tests may be slow
        monkeypatch.setattr(campaign, "SECONDS", 60.0)
    for_minutes = campaign.minutes()
    if for_minutes:
        report = campaign.campaign(f"test_fuzz_bundles:{target}", 10**9, seed=campaign.seed(), max_minutes=for_minutes)
        print(f"{target}: {report}")
    else:
        report = campaign.campaign(f"test_fuzz_bundles:{target}", 20)
    assert not report.failures
    assert report.counts
