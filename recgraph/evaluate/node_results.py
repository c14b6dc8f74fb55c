"""Evaluation of node embeddings on a task: both probes at each number of labels, and clustering."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field
from torch import Tensor

from recgraph import pages
from recgraph.config import Config
from recgraph.evaluate.node_probe import (
    SCORES,
    STRENGTHS,
    ProbeConfig,
    ProbeScores,
    check_split,
    cluster_scores,
    linear_probe,
    logistic_probe,
)
from recgraph.evaluate.results import aligned
from recgraph.graph.node_task import NodeTask


class NodeProtocol(Config):
    """Everything that must be equal for two tables of the node task to be comparable."""

    task_hash: Annotated[str, Field(description="of the labels and the splits")]
    probe: Annotated[ProbeConfig, Field(description="settings of the linear probe")]
    seed: Annotated[int, Field(ge=0, description="of the probe's first weights and of k-means")] = 0
    strengths: Annotated[tuple[float, ...], Field(min_length=1, description="C of the logistic regression")] = STRENGTHS
    clusterings: Annotated[int, Field(ge=1, description="k-means whose scores are averaged")] = 10
    cluster_starts: Annotated[int, Field(ge=1, description="starts of each k-means; the best is taken")] = 10

    @property
    def hash(self) -> str:
        """16 hexadecimal digits; equal for equal protocols, on every machine."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class NodeResults:
    """The table of a node task.

    Attributes:
        protocol: how the numbers were made.
        linear: number of labels a class (``"20"``) -> scores of the published linear probe.
        logistic: the same of scikit-learn's logistic regression.
        clusters: ``nmi`` and ``ari``.
    """

    protocol: NodeProtocol
    linear: Mapping[str, ProbeScores]
    logistic: Mapping[str, ProbeScores]
    clusters: Mapping[str, float]

    @property
    def hash(self) -> str:
        return self.protocol.hash

    def rows(self) -> list[dict[str, Any]]:
        """A row for each probe and number of labels, and one for the clustering; means over probes."""
        empty = dict.fromkeys((*SCORES, *self.clusters))
        found = [
            {"probe": name, "labels": labels, **empty, **scores.mean()}
            for name, table in (("linear", self.linear), ("logistic", self.logistic))
            for labels, scores in table.items()
        ]
        return [*found, {"probe": "k-means", "labels": "none", **empty, **self.clusters}]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: means, and deviations over the probes (not over trainings)."""
        probes = {
            name: {labels: {"mean": scores.mean(), "std": scores.std()} for labels, scores in table.items()}
            for name, table in (("linear", self.linear), ("logistic", self.logistic))
        }
        protocol = {"protocol": self.protocol.model_dump(mode="json"), "protocol_hash": self.hash}
        return {**protocol, **probes, "clusters": dict(self.clusters)}

    def __str__(self) -> str:
        rows = self.rows()
        return "\n".join(aligned([list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]))

    def __repr__(self) -> str:
        return f"NodeResults(protocol {self.hash})\n{self}"

    def _repr_html_(self) -> str:
        return pages.block("NodeResults", {"protocol": self.hash}, [pages.table(self.rows())])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else f"{value:.4f}"


def evaluate_nodes(
    embedding: Tensor,
    task: NodeTask,
    *,
    probe: ProbeConfig | None = None,
    seed: int = 0,
    splits: Sequence[str] | None = None,
) -> NodeResults:
    """Both probes on every split of a task, and k-means on all nodes.

    Args:
        embedding: [N, D], frozen, in the order of the task's labels.
        probe: settings of the linear probe; the published learning rates differ from data set to data set.
        seed: of the probe and of k-means, not of a training: use the same for all trainings that are compared.
        splits: those that are measured; by default all.
    """
    measured = {name: task.splits[name] for name in (task.splits if splits is None else splits)}
    for name, split in measured.items():
        check_split(task.labels, split, f"split {name!r}")
    protocol = NodeProtocol(task_hash=task.hash, probe=probe or ProbeConfig(), seed=seed)
    linear = {
        name: linear_probe(embedding, task.labels, split, seed=seed, config=protocol.probe)
        for name, split in measured.items()
    }
    logistic = {
        name: logistic_probe(embedding, task.labels, split, strengths=protocol.strengths)
        for name, split in measured.items()
    }
    clusters = cluster_scores(
        embedding, task.labels, repeats=protocol.clusterings, n_init=protocol.cluster_starts, seed=seed
    )
    return NodeResults(protocol, linear, logistic, clusters)
