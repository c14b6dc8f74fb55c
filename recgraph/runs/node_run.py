"""A run of the node task: a fitted graph model and the embeddings of its nodes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Self

from recgraph.arguments import checked
from recgraph.data.catalog import load_graph, load_node_task
from recgraph.data.sealing import check_open
from recgraph.evaluate.node_probe import ProbeConfig
from recgraph.evaluate.node_results import NodeResults, evaluate_nodes
from recgraph.graph.node_task import NodeTask
from recgraph.models.base import Model
from recgraph.ranks import is_first
from recgraph.runs.base import BaseRun
from recgraph.runs.plots import Plot, plot
from recgraph.runs.record import RunRecord
from recgraph.runs.settings import ProbeSettings, probe_of
from recgraph.serve.embedder import Embedder

if TYPE_CHECKING:
    import polars as pl

__all__ = ["NodeRun"]

_log = logging.getLogger(__name__)


class NodeRun(BaseRun):
    """A model that was fitted to a graph, and the embeddings of its nodes.

    Labels are not read by it, unless it learns classes (``n_classes``): ``record.unsealed`` then names the split.

    Attributes:
        embedder: the embeddings with their ids, and the model.
        record: a :class:`recgraph.runs.record.RunRecord`.
        folder: where the run is kept, or None.
    """

    def __init__(self, embedder: Embedder, record: RunRecord, folder: Path | None = None) -> None:
        super().__init__(record, folder)
        self.embedder = embedder

    def plot(self, kind: str = "curves") -> Plot:
        """The learning curve, see :meth:`Run.plot`; other kinds need a split."""
        return plot(self, None, kind, "valid", None)

    @property
    def model(self) -> Model:
        """The fitted model; of a run that was opened it is built again when it is first read."""
        return self.embedder.model

    def embeddings(self) -> pl.DataFrame:
        """One row a node: its id in a column that is called like the node type, and ``embedding``."""
        return self.embedder.embeddings()

    @checked
    def evaluate(self, task: NodeTask | None = None, *, probe: ProbeConfig | None = None, seed: int = 0) -> NodeResults:
        """Probes and clustering of the embeddings. This reads the labels for the first time; logged and recorded.

        Args:
            task: classes of the nodes; by default those of the run's data set.
            probe: settings of the linear probe; by default those that the run was made with.
            seed: of the probes, the same for all trainings that are to be compared.

        Raises:
            ValueError: there is no task, it does not fit the embeddings, or the data set has changed.
        """
        check_open()
        task = task if task is not None else self._task()
        target, n_nodes = self.embedder.target, self.embeddings().height
        if (task.target, len(task.labels)) != (target, n_nodes):
            raise ValueError(
                f"task classifies {len(task.labels)} {task.target!r} nodes, but the run embeds {n_nodes} {target!r}"
            )
        reason = f"evaluate {self.record.model} on the classes of {target!r}"
        self.record.unsealed = [*self.record.unsealed, reason]
        _log.warning("labels of task %s unsealed: %s", task.hash[:12], reason)
        if probe is None:
            probe = probe_of(ProbeSettings.of(self.record.evaluation))
        results = evaluate_nodes(self.embedder.vectors, task, probe=probe, seed=seed)
        self._add_results("nodes", results)
        return results

    def _task(self) -> NodeTask:
        data = self.record.data
        if data.dataset is None:
            raise ValueError("this run was made from a graph without classes; give evaluate(task)")
        now = load_graph(data.dataset).hash
        if now != data.graph_hash:
            raise ValueError(
                f"dataset {data.dataset!r} is not what the run was fitted on: its graph has the hash {now[:12]}, "
                f"the run's {(data.graph_hash or '')[:12]}"
            )
        return load_node_task(data.dataset)

    def save(self, folder: str | Path) -> None:
        """Write a bundle of the embeddings and the model; :func:`recgraph.load` reads it. The first process writes."""
        if is_first():
            self.embedder.save(folder)

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a finished run.

        Raises:
            ValueError: not a finished run, or its bundle cannot be read.
        """
        folder = Path(folder)
        record = RunRecord.read(folder)
        return cls(Embedder.load(folder / "bundle"), record, folder)
