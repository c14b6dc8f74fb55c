"""Files of an earlier version in ``golden/earlier_version`` are read as they are; none of them has an imprint.

Commit c175eb4 wrote them: a SASRec of 12 users with 6 items each after 3 epochs, its bundle, checkpoint, record and
split, and what it recommended to three users.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

import recgraph as rg
from recgraph.data.imprint import json_text, load_json
from recgraph.data.split import SealedSplit, Split
from recgraph.models.sequence.sasrec import SASRec
from recgraph.runs.run import Run
from recgraph.serve.bundle import BundleError
from recgraph.serve.recommender import Recommender
from recgraph.train import checkpoint as checkpoints


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    return Path(shutil.copytree(Path(__file__).parent / "golden" / "earlier_version", tmp_path / "run"))


def log() -> rg.Interactions:
    rows = [(f"u{user}", 100 + (user * user + step * step) % 9, step) for user in range(12) for step in range(6)]
    frame = pl.DataFrame(rows, schema=["who", "what", "when"], orient="row")
    return rg.Interactions.from_frame(frame, user="who", item="what", timestamp="when")


def test_a_bundle_recommends_the_same_lists(earlier: Path) -> None:
    served = rg.load(earlier / "bundle")
    assert isinstance(served, Recommender)
    found, before = served.recommend(users=["u0", "u5", "u11"], k=4), json.loads((earlier / "lists.json").read_text())
    assert found["who"].to_list() == before["who"]
    assert found["what"].to_list() == before["what"]
    assert found["score"].to_list() == pytest.approx(before["score"], abs=1e-6)
    served.save(earlier / "bundle")  # with imprints
    assert "imprint" in (earlier / "bundle" / "config.json").read_text()
    assert rg.load(earlier / "bundle").recommend(users=["u0", "u5", "u11"], k=4).equals(found)  # type: ignore[union-attr]


def test_a_split_has_the_same_parts(earlier: Path) -> None:
    split, now = SealedSplit.load(earlier / "split").unseal("a test"), log().split("leave-one-out")
    assert isinstance(split, Split)
    assert split.hash == now.hash
    assert split.labels.tolist() == now.labels.tolist()
    assert split.interactions.log.equals(now.interactions.log)
    assert checkpoints.read_latest(earlier / "checkpoints") is not None


def test_a_run_goes_on(earlier: Path) -> None:
    before = load_json(earlier / "record.json")["history"]
    for name in ("split", "lists.json"):
        path = earlier / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    run = Run.open(earlier, log().split("leave-one-out"))
    assert isinstance(run, Run)
    assert run.history == before
    model = SASRec(hidden_dim=8, n_heads=1, n_layers=1, max_len=8)
    given = {"seed": 3, "out": earlier, "device": "cpu", "batch_size": 8, "resume": True}
    longer = rg.fit(model, log().split("leave-one-out"), max_epochs=4, **given)  # type: ignore[arg-type]
    assert longer.history[:3] == before
    assert len(longer.history) == 4


def test_a_bundle_of_a_newer_version_is_refused_by_name(earlier: Path) -> None:
    path = earlier / "bundle" / "config.json"
    config = load_json(path)
    path.write_text(json_text({**config, "format": config["format"] + 1}))
    with pytest.raises(BundleError, match=r"bundle has bundle format 2 .* use the version that wrote it"):
        rg.load(earlier / "bundle")
    told = json.loads(json_text(config))
    told["imprint"]["format"] += 1
    path.write_text(json.dumps(told))
    with pytest.raises(BundleError, match=r"config\.json: a newer recgraph wrote .* upgrade it"):
        rg.load(earlier / "bundle")
