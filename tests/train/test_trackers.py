"""MLflow and Weights & Biases, the real ones, without a network: a store in a folder, and the offline mode."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import recgraph as rg
from recgraph.cli.app import app
from recgraph.config import Config
from recgraph.data.errors import CorruptFileError
from recgraph.data.split import Split
from recgraph.train import trackers
from recgraph.train.callbacks import Observer
from recgraph.train.config import TrainConfig
from recgraph.train.trackers import MLflow, Tracker, WandB, flat, keep_in_trackers, tell_trackers

SMALL: dict[str, Any] = {"max_epochs": 2, "batch_size": 256, "device": "cpu", "seed": 0}


@pytest.fixture(scope="module", autouse=True)
def _no_network() -> Iterator[None]:
    """Where a test would ask the network it fails: proxies that do not exist, no telemetry."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
            patch.setenv(name, "true")
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            patch.setenv(name, "http://127.0.0.1:9")
        yield


@pytest.fixture(scope="module")
def store(_no_network: None, tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """A store that a tracker has made; each takes seconds, as each of its tables waits for the disk."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    try:
        MLflow(experiment="first", uri=f"sqlite:///{path}").begin({"model": "none"}, None)
    except ImportError:
        return None
    return path


@pytest.fixture(autouse=True)
def _own_places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: Path | None) -> None:
    """The folder of the test for all that trackers write, with a store."""
    if store is not None:
        shutil.copy(store, tmp_path / "mlflow.db")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "wandb-files"))
    (tmp_path / "wandb-files").mkdir()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Split]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RECGRAPH_HOME", str(tmp_path_factory.mktemp("home")))
        yield rg.load_dataset("synthetic").split("leave-one-out")


def fit(split: Split, out: Path | None = None, **more: Any) -> rg.Run:
    return rg.fit(rg.models.SASRec(hidden_dim=8, n_heads=1), split, out=out, **{**SMALL, **more})


def client(tmp_path: Path) -> Any:
    return pytest.importorskip("mlflow").MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")


def the_run(tmp_path: Path, experiment: str = "recgraph") -> Any:
    found = client(tmp_path)
    (run,) = found.search_runs([found.get_experiment_by_name(experiment).experiment_id])
    return run


def test_settings_are_flat_and_lists_stay() -> None:
    assert flat({"a": {"b": 1, "c": {"d": [1, 2]}}, "e": {}}) == {"a.b": 1, "a.c.d": [1, 2], "e": {}}


def test_mlflow_has_settings_epochs_and_results(split: Split, tmp_path: Path) -> None:
    run = fit(split, tmp_path / "r", observers=(MLflow(experiment="shop", name="mine", folder_too=True),))
    kept = the_run(tmp_path, "shop")
    assert (kept.info.run_name, kept.info.status) == ("mine", "FINISHED")
    params = kept.data.params
    assert (params["model"], params["config.hidden_dim"], params["training.max_epochs"]) == ("sasrec", "8", "2")
    assert params["data.split"] == "leave-one-out"
    history = client(tmp_path).get_metric_history(kept.info.run_id, "ndcg_at_10")
    assert [(one.step, one.value) for one in history] == [(row["epoch"], row["ndcg@10"]) for row in run.history]
    assert "test/exclude/ndcg_at_10" not in kept.data.metrics
    files = {one.path for one in client(tmp_path).list_artifacts(kept.info.run_id, "run")}
    assert {"run/record.json", "run/bundle", "run/log.jsonl"} <= files
    results = run.evaluate()
    kept = the_run(tmp_path, "shop")
    assert kept.data.metrics["test/exclude/ndcg_at_10"] == results["exclude"]["ndcg@10"]
    # also of a run that is opened in another process
    again = rg.Run.open(tmp_path / "r", split)
    assert isinstance(again, rg.Run)
    again.evaluate("valid")
    assert the_run(tmp_path, "shop").data.metrics["valid/keep/recall_at_5"] > 0


class Stops(Observer):
    def end_epoch(self, row: Mapping[str, Any]) -> None:
        if row["epoch"] == 1:
            raise KeyboardInterrupt


def test_a_resumed_training_goes_on_in_the_same_mlflow_run(split: Split, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(split, tmp_path / "r", track="mlflow", observers=(Stops(),))
    assert the_run(tmp_path).info.status == "KILLED"
    fit(split, tmp_path / "r", track="mlflow", resume=True)
    kept = the_run(tmp_path)
    assert kept.info.status == "FINISHED"
    assert kept.info.run_name == "sasrec on leave-one-out"
    steps = [one.step for one in client(tmp_path).get_metric_history(kept.info.run_id, "loss")]
    assert sorted(set(steps)) == [1, 2]


def test_a_failed_training_is_told(split: Split, tmp_path: Path) -> None:
    class Fails(Observer):
        def end_epoch(self, row: Mapping[str, Any]) -> None:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        fit(split, observers=(MLflow(), Fails()))
    assert the_run(tmp_path).info.status == "FAILED"


def test_a_closed_form_model_is_tracked(split: Split, tmp_path: Path) -> None:
    run = rg.fit(rg.models.EASE(), split, seed=0, observers=(MLflow(),))
    run.evaluate("valid")
    kept = the_run(tmp_path)
    assert (kept.data.params["model"], kept.info.status) == ("ease", "FINISHED")
    assert kept.data.metrics["valid/exclude/ndcg_at_10"] > 0


def test_a_closed_form_model_is_told_before_it_is_fitted(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise MemoryError("too large")

    monkeypatch.setattr(rg.models.EASE, "fit", fails)
    with pytest.raises(MemoryError, match="too large"):
        rg.fit(rg.models.EASE(), split, seed=0, observers=(MLflow(),))
    assert the_run(tmp_path).info.status == "FAILED"


def test_a_tracker_that_is_away_costs_no_results(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run = fit(split, tmp_path / "r", track="mlflow")

    def away(*_: Any) -> None:
        raise ConnectionError("away")

    monkeypatch.setattr(MLflow, "tell", away)
    with caplog.at_level(logging.WARNING, logger="recgraph"):
        results = run.evaluate("valid")
    assert "results not told to mlflow: ConnectionError: away" in caplog.text
    written = json.loads((tmp_path / "r" / "record.json").read_text())["results"]["valid"]
    assert written == json.loads(json.dumps(results.to_dict()))


def test_a_tracker_that_goes_away_costs_no_training(
    split: Split, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def away(*_: Any) -> None:
        raise ConnectionError("away")

    for name in ("add", "finish"):
        monkeypatch.setattr(MLflow, name, away)
    with caplog.at_level(logging.WARNING, logger="recgraph"):
        run = fit(split, track="mlflow")
    assert len(run.history) == 2
    for what in ("epoch 1", "epoch 2", "the end of the training"):
        assert f"{what} not told to mlflow: ConnectionError: away" in caplog.text


def test_an_error_that_was_handled_before_is_not_the_training_s(split: Split, tmp_path: Path) -> None:
    try:
        raise MemoryError("batch_size")
    except MemoryError:
        fit(split, track="mlflow")
    assert the_run(tmp_path).info.status == "FINISHED"


def test_an_experiment_that_another_process_makes_at_the_same_time(
    split: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client(tmp_path).create_experiment("recgraph")
    before, looks = type(client(tmp_path)).get_experiment_by_name, [None]

    def found(own: Any, name: str) -> Any:
        return looks.pop() if looks else before(own, name)

    monkeypatch.setattr(type(client(tmp_path)), "get_experiment_by_name", found)
    fit(split, track="mlflow")
    assert the_run(tmp_path).info.status == "FINISHED"


def test_the_command_line_tracks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECGRAPH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "from the shell")
    small = [*("--set", "hidden_dim=8"), *("--set", "n_heads=1"), *("--set", "max_epochs=1")]
    train = ["train", "sasrec", "-d", "synthetic", "-o", str(tmp_path / "r"), "-q", *small, "--set", "track=mlflow"]
    done = CliRunner().invoke(app, train)
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "r"), "-q"])
    assert done.exit_code == 0, done.output
    kept = the_run(tmp_path, "from the shell")
    assert kept.info.run_name == "sasrec on synthetic"
    assert kept.data.metrics["test/keep/ndcg_at_10"] > 0


def _entries(path: Path) -> Iterator[bytes]:
    """The entries of a file of Weights & Biases: LevelDB's log format (blocks of 32 KiB) behind a head of 7 bytes."""
    data, at, entry = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at < len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        entry += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield entry
            entry = b""


def _name(item: Any) -> str:
    return str(item.key or item.nested_key[0])


def _offline(tmp_path: Path, run: str) -> list[dict[str, Any]]:
    """What the offline files of a run hold: rows, values of the summary, settings, artefacts."""
    internal = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    found: list[dict[str, Any]] = []
    for path in sorted((tmp_path / "wandb-files").glob(f"**/run-{run}.wandb")):
        for entry in _entries(path):
            record = internal.Record()
            record.ParseFromString(entry)
            kind = record.WhichOneof("record_type")
            if kind == "history":
                found.append({_name(item): json.loads(item.value_json) for item in record.history.item})
            elif kind == "summary":
                found += [{_name(item): json.loads(item.value_json)} for item in record.summary.update]
            elif kind == "run":
                found += [{f"config/{_name(item)}": json.loads(item.value_json)} for item in record.run.config.update]
            elif kind == "artifact":
                found.append({"artefact": record.artifact.name})
    return found


def test_wandb_has_settings_epochs_results_and_the_folder(split: Split, tmp_path: Path) -> None:
    run = fit(split, tmp_path / "r", observers=(WandB(project="shop", folder_too=True),))
    results = run.evaluate()
    pytest.importorskip("wandb").teardown()  # what its service still holds is written
    (reference,) = run.record.tracking or ()
    assert reference["project"] == "shop"
    told = _offline(tmp_path, reference["id"])
    epochs = [row for row in told if "ndcg@10" in row and "loss" in row]
    assert [row["ndcg@10"] for row in epochs] == [row["ndcg@10"] for row in run.history]
    (config,) = (row["config/config"] for row in told if "config/config" in row)
    assert config["hidden_dim"] == 8
    assert {"test/exclude/ndcg@10": results["exclude"]["ndcg@10"]} in told
    assert {"artefact": f"run-{reference['id']}"} in told


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A server that nobody may ask."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        yield server
        with pytest.raises(BlockingIOError):
            server.accept()


def test_an_address_that_a_record_alone_names_is_never_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, listener: socket.socket
) -> None:
    """The results of `evaluate`, and the folder, went wherever the record of a run said."""
    stranger, own = tmp_path / "stranger.db", f"sqlite:///{tmp_path / 'mlflow.db'}"
    told: list[str] = []
    for uri in (f"http://127.0.0.1:{listener.getsockname()[1]}", f"sqlite:///{stranger}"):
        reference = {"tracker": "mlflow", "uri": uri, "run_id": "a", "folder_too": True}
        with caplog.at_level(logging.WARNING, logger="recgraph"):
            tell_trackers([reference], {"x": 1.0})
            keep_in_trackers([reference], tmp_path)
        assert f"nothing is told to mlflow at {uri}: the run's record names it, and not you" in caplog.text
        assert f"set MLFLOW_TRACKING_URI={uri} " in caplog.text
    assert not stranger.exists()
    for name in ("tell", "keep"):
        monkeypatch.setattr(MLflow, name, lambda reference, _, name=name: told.append(f"{name} {reference['uri']}"))
    tell_trackers([reference, {**reference, "uri": own}], {"x": 1.0})  # the environment names the second
    monkeypatch.setattr(trackers, "_own", [dict(reference)])  # this process has begun the run
    keep_in_trackers([reference], tmp_path)
    assert told == [f"tell {own}", f"keep sqlite:///{stranger}"]


def test_a_resumed_training_goes_where_its_own_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, own = tmp_path / "tracking.json", f"sqlite:///{tmp_path / 'mlflow.db'}"
    begun: list[Any] = []

    def start(tracker: MLflow, _: Any, reference: dict[str, Any] | None) -> dict[str, Any]:
        begun.append(reference)
        return {"uri": tracker.goes_to(), "run_id": "b"}

    monkeypatch.setattr(MLflow, "start", start)
    monkeypatch.setattr(trackers, "_own", [])
    theirs = {"tracker": "mlflow", "uri": "http://evil;x", "run_id": "a"}
    for uri, followed in (("http://evil;x", False), (own, True)):
        path.write_text(json.dumps([{**theirs, "uri": uri}]))
        with caplog.at_level(logging.WARNING, logger="recgraph"):
            MLflow().begin({}, tmp_path)
        assert (begun[-1] is not None) == followed
        assert json.loads(path.read_text())[0]["uri"] == own
    assert "not in that of http://evil;x: tracking.json names it, and not you; set MLFLOW_TRACKING_URI='http" in (
        caplog.text
    )
    MLflow(uri="http://evil;x").begin({}, tmp_path)
    assert (tmp_path / "tracking.json").exists()
    for text in ("{}", '[{"tracker": "os"}]', "[1]"):
        path.write_text(text)
        with pytest.raises(CorruptFileError, match=r"tracking\.json: it is no list of trackers \(mlflow, wandb\)"):
            MLflow().begin({}, tmp_path)


def test_a_record_sets_neither_project_nor_mode_nor_folder_of_wandb(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(WandB, "tell", lambda reference, values: told.append({**reference, **values}))
    reference = {"tracker": "wandb", "project": "theirs", "mode": "online", "dir": "/etc", "id": "a"}
    with caplog.at_level(logging.WARNING, logger="recgraph"):
        tell_trackers([reference, {"tracker": "os"}, {}], {"x": 1.0})
    assert not told
    assert "nothing is told to wandb at theirs" in caplog.text
    assert "set WANDB_PROJECT=theirs" in caplog.text
    assert "results not told to os: KeyError" in caplog.text
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    tell_trackers([reference], {"x": 1.0})
    assert told == [{"tracker": "wandb", "project": "theirs", "id": "a", "x": 1.0}]


def test_settings_keep_their_addresses() -> None:
    before = TrainConfig().identity()
    assert "track" not in before
    assert "track_folder" not in before
    assert TrainConfig(track="wandb").identity()["track"] == "wandb"
    assert issubclass(TrainConfig, Config)


@pytest.mark.parametrize("kind", [MLflow, WandB])
def test_what_is_not_installed_is_said(kind: type[Tracker], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, kind.kind, None)
    with pytest.raises(ImportError, match=r"pip install 'recgraph\[track\]'"):
        kind()
