"""Trackers: observers that tell a service of experiments about a run, also after its training (extra ``track``).

A run's record and folder say where its trackers are, and either may be a stranger's. So an address is followed only
where this process has begun a run there, or where the user's own environment names it.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

from recgraph.bounded.texts import read_json
from recgraph.data.errors import CorruptFileError
from recgraph.data.files import replace_text
from recgraph.train.callbacks import Observer

__all__ = ["MLflow", "Tracker", "WandB", "flat", "keep_in_trackers", "make_tracker", "tell_trackers"]

_log = logging.getLogger(__name__)
#: in a run's folder: where its trackers go on
_FILE = "tracking.json"
#: the references that trackers of this process have made
_own: list[dict[str, Any]] = []

Values = dict[str, Any]


def flat(values: Mapping[str, Any], before: str = "") -> Values:
    """Nested settings with dotted names; a list stays a value."""
    found: Values = {}
    for name, value in values.items():
        nested = isinstance(value, Mapping) and value
        found |= flat(value, f"{before}{name}.") if nested else {f"{before}{name}": value}
    return found


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if isinstance(value, int | float) and name != "epoch"}


class Tracker(Observer):
    """Base of all trackers: an observer that can be found again by its :attr:`reference`.

    Args:
        address: of the service's place for runs; None: that which the environment names.
        folder_too: also send the run's folder, once it is complete, as an artefact.

    Attributes:
        reference: plain values by which :func:`tell_trackers` goes on; None before the training begins.
    """

    kind: ClassVar[str]
    #: the entry of a reference that holds its address, and the variable of the environment that names one
    entry: ClassVar[str]
    variable: ClassVar[str]

    def __init__(self, address: str | None = None, folder_too: bool = False) -> None:
        self._address, self._folder_too = address, folder_too
        self.reference: Values | None = None
        #: the error that the caller was handling when the training began
        self._handled: BaseException | None = None

    def begin(self, record: Mapping[str, Any], folder: Path | None) -> None:
        """Start the run of the service, or go on with the one that a stopped training began there."""
        self._handled = sys.exc_info()[1]
        references = _references(folder)
        found = {one["tracker"]: one for one in references}.get(self.kind)
        if found is not None and found not in _own and self.address(found) != self.goes_to():
            _log.warning(
                "the training goes on in a new run of %s at %s, not in that of %s: %s names it, and not you; %s",
                *(self.kind, self.goes_to(), self.address(found), _FILE, self.way_out(found)),
            )
            found = None
        self.reference = {"tracker": self.kind, "folder_too": self._folder_too, **self.start(record, found)}
        _own.append(self.reference)
        if folder is not None:
            others = [one for one in references if one["tracker"] != self.kind]
            replace_text(json.dumps([*others, self.reference], indent=1), folder / _FILE)

    def end_epoch(self, row: Mapping[str, Any]) -> None:
        """Tell of an epoch; where that fails, the training goes on, with a warning."""
        with _warned(f"epoch {row['epoch']} not told to {self.kind}"):
            self.add(row)

    def close(self) -> None:
        """Tell that the training ended; where that fails, it costs a warning."""
        error = sys.exc_info()[1]
        if self.reference is not None:
            with _warned(f"the end of the training not told to {self.kind}"):
                self.finish(None if error is self._handled else error)

    def goes_to(self) -> str:
        """The address that the arguments of this tracker name, or else the environment."""
        return self._address or self.usual()

    @classmethod
    def usual(cls) -> str:
        """The address that the environment names."""
        raise NotImplementedError

    @classmethod
    def address(cls, reference: Values) -> str:
        """Where a reference leads."""
        return f"{reference.get(cls.entry)}"

    @classmethod
    def way_out(cls, reference: Values) -> str:
        """What to set so that a reference is followed."""
        return f"set {cls.variable}={shlex.quote(cls.address(reference))} where you trust it"

    def start(self, record: Mapping[str, Any], reference: Values | None) -> Values:
        """Start a run of the service, or go on with the one of a reference -> the reference's own values."""
        raise NotImplementedError

    def add(self, row: Mapping[str, Any]) -> None:
        """Add the row of an epoch to the run of the service."""
        raise NotImplementedError

    def finish(self, error: BaseException | None) -> None:
        """End the run of the service.

        Args:
            error: what ended the training; None: it is complete.
        """
        raise NotImplementedError

    @classmethod
    def tell(cls, reference: Values, values: Mapping[str, float]) -> None:
        """Add final values to a run of the service."""
        raise NotImplementedError

    @classmethod
    def keep(cls, reference: Values, folder: Path) -> None:
        """Send a folder."""
        raise NotImplementedError


@contextmanager
def _warned(what: str) -> Iterator[None]:
    """An error of the block is a warning: a service may be away, and the run's record has all that it is told."""
    try:
        yield
    except Exception as error:
        _log.warning("%s: %s: %s", what, type(error).__name__, error)


def _references(folder: Path | None) -> list[Values]:
    path = None if folder is None else folder / _FILE
    if path is None or not path.exists():
        return []
    found = read_json(path)
    if not isinstance(found, list) or not all(isinstance(one, dict) and one.get("tracker") in _KINDS for one in found):
        raise CorruptFileError(
            f"it is no list of trackers ({', '.join(_KINDS)}); remove it to begin new ones", path=path
        )
    return found


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"track = {name!r} needs the extra: pip install 'recgraph[track]'") from error


class MLflow(Tracker):
    """A run of MLflow: settings as parameters, the rows of epochs and the results of evaluations as metrics.

    MLflow allows no ``@`` in names, so that ``ndcg@10`` is ``ndcg_at_10`` there.

    Args:
        experiment: its name; by default ``MLFLOW_EXPERIMENT_NAME``, else ``recgraph``.
        uri: of the tracking server or store; by default what MLflow is set to (``MLFLOW_TRACKING_URI``).
        name: of the run; by default the model and the data.
        folder_too: see :class:`Tracker`.

    Raises:
        ImportError: MLflow is not installed.
    """

    kind, entry, variable = "mlflow", "uri", "MLFLOW_TRACKING_URI"

    def __init__(
        self, experiment: str | None = None, uri: str | None = None, name: str | None = None, folder_too: bool = False
    ) -> None:
        super().__init__(uri, folder_too)
        self._experiment, self._name = experiment, name
        self._mlflow = _import("mlflow")

    @classmethod
    def usual(cls) -> str:
        return f"{_import('mlflow').get_tracking_uri()}"

    def start(self, record: Mapping[str, Any], reference: Values | None) -> Values:
        uri = self.goes_to() if reference is None else reference["uri"]
        self._client = self._mlflow.MlflowClient(tracking_uri=uri)
        if reference is not None:
            self._id = reference["run_id"]
            self._client.update_run(self._id, status="RUNNING")
            return {"uri": uri, "run_id": self._id}
        name = self._experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or "recgraph"
        run = self._client.create_run(self._experiment_of(name), run_name=self._name or _title(record))
        self._id = run.info.run_id
        entity = self._mlflow.entities.Param
        # MLflow keeps so many characters of a value
        params = [entity(_mlflow_name(name), f"{value}"[:6000]) for name, value in flat(record).items()]
        for first in range(0, len(params), 100):
            self._client.log_batch(self._id, params=params[first : first + 100])
        return {"uri": uri, "run_id": self._id}

    def _experiment_of(self, name: str) -> str:
        """The id of an experiment, which is made where there is none."""
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return f"{self._client.create_experiment(name)}"
            except self._mlflow.exceptions.MlflowException:
                found = self._client.get_experiment_by_name(name)
                if found is None:  # another process has not just made it, either
                    raise
        return f"{found.experiment_id}"

    def add(self, row: Mapping[str, Any]) -> None:
        _log_metrics(self._mlflow, self._client, self._id, _numbers(row), int(row["epoch"]))

    def finish(self, error: BaseException | None) -> None:
        status = "FINISHED" if error is None else "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        self._client.set_terminated(self._id, status)

    @classmethod
    def tell(cls, reference: Values, values: Mapping[str, float]) -> None:
        mlflow = _import("mlflow")
        _log_metrics(mlflow, mlflow.MlflowClient(tracking_uri=reference["uri"]), reference["run_id"], values, 0)

    @classmethod
    def keep(cls, reference: Values, folder: Path) -> None:
        client = _import("mlflow").MlflowClient(tracking_uri=reference["uri"])
        client.log_artifacts(reference["run_id"], str(folder), artifact_path="run")


def _mlflow_name(name: str) -> str:
    return re.sub(r"[^\w.\- :/]", "_", name.replace("@", "_at_"))


def _log_metrics(mlflow: Any, client: Any, run: str, values: Mapping[str, float], step: int) -> None:
    now, entity = int(time.time() * 1000), mlflow.entities.Metric
    client.log_batch(run, metrics=[entity(_mlflow_name(name), value, now, step) for name, value in values.items()])


def _title(record: Mapping[str, Any]) -> str:
    data = record.get("data") or {}
    return f"{record.get('model')} on {data.get('dataset') or data.get('split') or 'a graph'}"


class WandB(Tracker):
    """A run of Weights & Biases: settings as its configuration, rows of epochs, results in its summary.

    Args:
        project: its name; by default ``WANDB_PROJECT``, else ``recgraph``.
        name: of the run; by default the model and the data.
        mode: ``"online"``, ``"offline"`` or ``"disabled"``; by default ``WANDB_MODE``.
        folder: where it keeps its files; by default ``WANDB_DIR``, else ``wandb`` in the working folder.
        folder_too: see :class:`Tracker`.

    Raises:
        ImportError: wandb is not installed.
    """

    kind, entry, variable = "wandb", "project", "WANDB_PROJECT"

    def __init__(
        self,
        project: str | None = None,
        name: str | None = None,
        mode: str | None = None,
        folder: str | Path | None = None,
        folder_too: bool = False,
    ) -> None:
        super().__init__(project, folder_too)
        self._name, self._mode, self._folder = name, mode, None if folder is None else str(Path(folder).resolve())
        _import("wandb")

    @classmethod
    def usual(cls) -> str:
        return os.environ.get(cls.variable) or "recgraph"

    def start(self, record: Mapping[str, Any], reference: Values | None) -> Values:
        own = {"project": self.goes_to(), "mode": self._mode, "dir": self._folder}
        # of a reference that someone else wrote neither the mode nor the folder counts
        opened = own if reference is None else {**own, "id": reference["id"]}
        self._run = _open(opened, name=self._name or _title(record), config=json.loads(json.dumps(dict(record))))
        return {**opened, "id": self._run.id}

    def add(self, row: Mapping[str, Any]) -> None:
        self._run.log(_numbers(row), step=int(row["epoch"]))

    def finish(self, error: BaseException | None) -> None:
        self._run.finish(exit_code=0 if error is None else 1)

    @classmethod
    def tell(cls, reference: Values, values: Mapping[str, float]) -> None:
        with _opened(reference) as run:
            run.summary.update(dict(values))

    @classmethod
    def keep(cls, reference: Values, folder: Path) -> None:
        with _opened(reference) as run:
            artefact = _import("wandb").Artifact(f"run-{reference['id']}", type="run")
            artefact.add_dir(str(folder), skip_cache=True)
            run.log_artifact(artefact)


def _open(reference: Values, **more: Any) -> Any:
    wandb = _import("wandb")
    chosen = {name: reference.get(name) for name in ("project", "mode", "dir", "id")}
    settings = wandb.Settings(silent=True, console="off")
    return wandb.init(**chosen, **more, resume="allow", reinit="create_new", settings=settings)


@contextmanager
def _opened(reference: Values) -> Iterator[Any]:
    run = _open(reference)
    try:
        yield run
    finally:
        run.finish()


_KINDS: dict[str, type[Tracker]] = {cls.kind: cls for cls in (MLflow, WandB)}


def make_tracker(name: str, folder_too: bool) -> Tracker:
    """A tracker by its name in the settings of a training, as its environment variables set it."""
    made: Tracker = _KINDS[name](folder_too=folder_too)
    return made


def tell_trackers(references: Sequence[Values], values: Mapping[str, float]) -> None:
    """Add the results of an evaluation to the trackers of a run; one that fails costs a warning, not the results.

    A tracker at an address that neither this process nor the environment names is left out, with a warning.
    """
    for reference in references:
        kind = reference.get("tracker")
        with _warned(f"results not told to {kind}"):
            if followed := _followed(reference):
                _KINDS[followed["tracker"]].tell(followed, values)


def keep_in_trackers(references: Sequence[Values], folder: Path) -> None:
    """Send the run's folder to those of its trackers that want it; see :func:`tell_trackers`."""
    for reference in references:
        kind = reference.get("tracker")
        with _warned(f"{folder} not sent to {kind}"):
            if reference.get("folder_too") and (followed := _followed(reference)):
                _KINDS[followed["tracker"]].keep(followed, folder)


def _followed(reference: Values) -> Values | None:
    """What of a reference is followed; None, with a warning: nothing, as the user has not named its address."""
    if reference in _own:
        return reference
    tracker = _KINDS[reference["tracker"]]
    if tracker.address(reference) == tracker.usual():
        return {name: value for name, value in reference.items() if name not in ("mode", "dir")}
    _log.warning(
        "nothing is told to %s at %s: the run's record names it, and not you; %s",
        *(tracker.kind, tracker.address(reference), tracker.way_out(reference)),
    )
    return None
