"""The node task: what node embeddings tell of classes, by a linear probe, a logistic regression and
clustering.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Config
from recgraph.evaluate.results import Printed
from recgraph.graph.node_task import NodeSplit, NodeTask
from recgraph.rng import derive

SCORES = ("macro_f1", "micro_f1", "auc")
#: inverse strengths of regularisation (scikit-learn's ``C``) among which the logistic regression is
#: chosen
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)


@dataclass(frozen=True)
class ProbeScores:
    """Test scores of R probes, [R] float64; ``auc`` is the mean area of each class against the
    rest.
    """

    macro_f1: Tensor
    micro_f1: Tensor
    auc: Tensor

    def mean(self) -> dict[str, float]:
        return {name: float(getattr(self, name).mean()) for name in SCORES}

    def std(self) -> dict[str, float]:
        """Of each score over the probes, which differ in their first weights alone."""
        return {name: float(getattr(self, name).std(correction=0)) for name in SCORES}


class ProbeConfig(Config):
    """Settings of the linear probe."""

    learning_rate: Annotated[float, Field(gt=0, description="of Adam")] = 0.01
    weight_decay: Annotated[float, Field(ge=0, description="L2 penalty of Adam")] = 0.0
    repeats: Annotated[
        int, Field(ge=1, description="classifiers, which differ in their first weights")
    ] = 50
    steps: Annotated[int, Field(ge=1, description="full-batch steps of each")] = 200


def linear_probe(
    embedding: Tensor, labels: Tensor, split: NodeSplit, config: ProbeConfig, *, seed: int = 0
) -> ProbeScores:
    """The published protocol: linear classifiers trained by Adam, all of them at once as one
    tensor.

    The weights begin Xavier-uniform, the bias at 0. Macro-F1 on the test nodes is taken at the step
    with the first best validation Macro-F1, Micro-F1 and the area at the step with the first best
    validation Micro-F1.

    Source: HeCo (KDD 2021), evaluation as published, which trains one classifier after the other.

    Args:
        embedding: [N, D], frozen.
        labels: [N] int64 from 0.
        split: of the nodes; a node that occurs twice in ``train`` counts twice.
    """
    x, labels, n_classes = _checked(embedding, labels, split)
    labels = labels.to(x.device)
    test_labels = labels[split.test]
    generator = torch.Generator(x.device).manual_seed(derive(seed, "probe"))
    bound = math.sqrt(6 / (x.shape[1] + n_classes))
    weight = torch.empty(n_classes, config.repeats, x.shape[1], device=x.device)
    weight.uniform_(-bound, bound, generator=generator).requires_grad_()
    bias = torch.zeros(n_classes, config.repeats, 1, device=x.device).requires_grad_()
    optimiser = torch.optim.Adam(
        [weight, bias], lr=config.learning_rate, weight_decay=config.weight_decay
    )
    best_by_macro, best_by_micro = _Best(weight, bias), _Best(weight, bias)
    for _ in range(config.steps):
        logits = _logits(weight, bias, x[split.train])
        of_label = logits.gather(0, labels[split.train].expand(1, config.repeats, -1))[0]
        # the sum over classifiers of the mean cross-entropy: each gets its own gradient
        loss = (logits.logsumexp(0) - of_label).mean(1).sum()
        weight.grad, bias.grad = torch.autograd.grad(loss, (weight, bias))
        optimiser.step()
        with torch.no_grad():
            predicted = _logits(weight, bias, x[split.valid]).max(0).indices
            macro, micro = f1_scores(predicted, labels[split.valid], n_classes)
            best_by_macro.update(macro, weight, bias)
            best_by_micro.update(micro, weight, bias)
    by_macro = _logits(best_by_macro.weight, best_by_macro.bias, x[split.test])
    by_micro = _logits(best_by_micro.weight, best_by_micro.bias, x[split.test])
    macro, _ = f1_scores(by_macro.max(0).indices, test_labels, n_classes)
    _, micro = f1_scores(by_micro.max(0).indices, test_labels, n_classes)
    return ProbeScores(macro, micro, _areas(torch.softmax(by_micro, 0), test_labels))


class _Best:
    """Of each of R classifiers the first best score, and the weights then.

    Args:
        weight, bias: the first ones, [C, R, D] and [C, R, 1].
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight.detach().clone(), bias.detach().clone()
        self.score = bias.new_full(bias.shape[1:2], -torch.inf, dtype=torch.float64)

    def update(self, score: Tensor, weight: Tensor, bias: Tensor) -> None:
        better = score > self.score
        torch.where(better, score, self.score, out=self.score)
        torch.where(better[:, None], weight, self.weight, out=self.weight)
        torch.where(better[:, None], bias, self.bias, out=self.bias)


def _logits(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """[C, R, n] of embeddings [n, D]; classes come first, so that sums over them are elementwise
    over the rest.
    """
    return (weight.view(-1, x.shape[1]) @ x.t()).view(*weight.shape[:2], -1) + bias


def logistic_probe(
    embedding: Tensor, labels: Tensor, split: NodeSplit, *, strengths: tuple[float, ...] = STRENGTHS
) -> ProbeScores:
    """scikit-learn's logistic regression on standardised embeddings, its ``C`` chosen on the
    validation nodes: for Macro-F1 by Macro-F1, for the others by Micro-F1."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, labels, n_classes = _checked(embedding, labels, split)
    x, labels = x.double().cpu(), labels.cpu()
    train, valid, test = split.train.cpu(), split.valid.cpu(), split.test.cpu()
    candidates = []
    for strength in strengths:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        model.fit(x[train].numpy(), labels[train].numpy())
        on_valid = torch.as_tensor(model.predict(x[valid].numpy()))[None]
        on_test = torch.zeros(n_classes, 1, len(test), dtype=torch.float64)
        on_test[model.classes_, 0] = torch.as_tensor(model.predict_proba(x[test].numpy()).T)
        macro, micro = f1_scores(on_test.max(0).indices, labels[test], n_classes)
        scores = ProbeScores(macro, micro, _areas(on_test, labels[test]))
        candidates.append((f1_scores(on_valid, labels[valid], n_classes), scores))
    _, by_macro = max(candidates, key=lambda candidate: float(candidate[0][0]))
    _, by_micro = max(candidates, key=lambda candidate: float(candidate[0][1]))
    return ProbeScores(by_macro.macro_f1, by_micro.micro_f1, by_micro.auc)


def cluster_scores(
    embedding: Tensor, labels: Tensor, *, repeats: int = 10, n_init: int = 10, seed: int = 0
) -> dict[str, float]:
    """The published protocol of clustering: k-means on all nodes of a known class, with as many
    clusters as classes; ``nmi`` and ``ari``, means over the repeats. The ARI depends strongly on
    ``n_init``."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    labels = labels.cpu()
    known = labels >= 0
    x, truth = embedding.detach().cpu()[known].numpy(), labels[known].numpy()
    n_classes = len(labels[known].unique())  # type: ignore[no-untyped-call]
    nmi, ari = [], []
    for repeat in range(repeats):
        state = derive(seed, "clusters", repeat) % 2**32
        clusters = KMeans(n_classes, n_init=n_init, random_state=state).fit_predict(x)
        nmi.append(normalized_mutual_info_score(truth, clusters))
        ari.append(adjusted_rand_score(truth, clusters))
    return {"nmi": sum(nmi) / repeats, "ari": sum(ari) / repeats}


def f1_scores(predicted: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """[R] and [R] float64: Macro-F1 and Micro-F1 (the accuracy) of each row of predictions, [R, n],
    of labels [n]. A class that is neither in the labels nor predicted does not enter the mean, as
    in scikit-learn."""
    total = torch.zeros(len(predicted), dtype=torch.float64, device=predicted.device)
    counted = torch.zeros_like(total)
    for c in range(n_classes):
        is_predicted, is_true = predicted == c, labels == c
        both, either = (is_predicted & is_true).sum(1), is_predicted.sum(1) + is_true.sum()
        total += 2 * both / either.clamp(min=1)
        counted += either > 0
    micro = (predicted == labels).to(torch.float64).mean(1)
    return total / counted, micro


def _areas(probabilities: Tensor, labels: Tensor) -> Tensor:
    """[R] float64 of probabilities [C, R, n]: the mean over classes of the area under the ROC curve
    of a class against the rest; ties count half. A class of none of the nodes does not enter the
    mean."""
    areas = []
    for c, scores in enumerate(probabilities.contiguous()):
        positive = labels == c
        n_positive, n_negative = int(positive.sum()), int((~positive).sum())
        if min(n_positive, n_negative) == 0:
            continue
        ordered = scores.sort(1).values
        below = torch.searchsorted(ordered, scores)
        upto = torch.searchsorted(ordered, scores, right=True)
        ranks = (below + upto + 1).to(torch.float64) / 2
        wins = ranks[:, positive].sum(1) - n_positive * (n_positive + 1) / 2
        areas.append(wins / (n_positive * n_negative))
    return torch.stack(areas).mean(0)


def _checked(embedding: Tensor, labels: Tensor, split: NodeSplit) -> tuple[Tensor, Tensor, int]:
    """The embedding in the default type, the classes numbered from 0 without gaps, and how many there
    are.
    """
    n_shared = int(torch.isin(split.test, torch.cat([split.train, split.valid])).sum())
    if n_shared:
        raise ValueError(
            f"split: {n_shared:,} test nodes are train or valid nodes, too; leave them out of one"
        )
    x = embedding.detach().to(torch.get_default_dtype())
    if not bool(x.isfinite().all()):
        raise ValueError("embedding holds NaN or infinite values")
    known = labels >= 0
    classes, codes = torch.unique(labels[known], return_inverse=True)
    numbered = torch.full_like(labels, -1)
    numbered[known] = codes
    return x, numbered, len(classes)


class NodeProtocol(Config):
    """Everything that must be equal for two tables of the node task to be comparable."""

    task_hash: Annotated[str, Field(description="of the labels and the splits")]
    probe: Annotated[ProbeConfig, Field(description="settings of the linear probe")]
    seed: Annotated[int, Field(ge=0, description="of the probe's first weights and of k-means")] = 0
    strengths: Annotated[
        tuple[float, ...], Field(min_length=1, description="C of the logistic regression")
    ] = STRENGTHS
    clusterings: Annotated[int, Field(ge=1, description="k-means whose scores are averaged")] = 10
    cluster_starts: Annotated[
        int, Field(ge=1, description="starts of each k-means; the best is taken")
    ] = 10

    @property
    def hash(self) -> str:
        """16 hexadecimal digits; equal for equal protocols, on every machine."""
        return hashlib.sha256(
            json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()
        ).hexdigest()[:16]


@dataclass(frozen=True, repr=False)
class NodeResults(Printed):
    """The table of a node task."""

    protocol: NodeProtocol
    #: number of labels a class (``"20"``) -> scores of the published linear probe
    linear: Mapping[str, ProbeScores]
    #: the same of scikit-learn's logistic regression
    logistic: Mapping[str, ProbeScores]
    #: ``nmi`` and ``ari``
    clusters: Mapping[str, float]

    @property
    def hash(self) -> str:
        return self.protocol.hash

    def rows(self) -> list[dict[str, Any]]:
        """A row for each probe and number of labels, and one for the clustering; means over
        probes.
        """
        empty = dict.fromkeys((*SCORES, *self.clusters))
        rows = []
        for name, table in self._probes.items():
            for labels, scores in table.items():
                rows.append({"probe": name, "labels": labels, **empty, **scores.mean()})
        rows.append({"probe": "k-means", "labels": "none", **empty, **self.clusters})
        return rows

    @property
    def _probes(self) -> dict[str, Mapping[str, ProbeScores]]:
        return {"linear": self.linear, "logistic": self.logistic}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: means, and deviations over the probes (not over
        trainings).
        """
        values: dict[str, Any] = {
            "protocol": self.protocol.model_dump(mode="json"),
            "protocol_hash": self.hash,
        }
        for name, table in self._probes.items():
            values[name] = {}
            for labels, scores in table.items():
                values[name][labels] = {"mean": scores.mean(), "std": scores.std()}
        return {**values, "clusters": dict(self.clusters)}

    def facts(self) -> dict[str, str]:
        return {"protocol": self.hash}


def evaluate_nodes(
    embedding: Tensor, task: NodeTask, *, probe: ProbeConfig | None = None, seed: int = 0
) -> NodeResults:
    """Both probes on every split of a task, and k-means on all nodes.

    Args:
        embedding: [N, D], frozen, in the order of the task's labels.
        seed: of the probe and of k-means, not of a training: use the same for all trainings that
            are compared.
    """
    protocol = NodeProtocol(task_hash=task.hash, probe=probe or ProbeConfig(), seed=seed)
    labels, strengths = task.labels, protocol.strengths
    linear, logistic = {}, {}
    for name, split in task.splits.items():
        linear[name] = linear_probe(embedding, labels, split, protocol.probe, seed=seed)
        logistic[name] = logistic_probe(embedding, labels, split, strengths=strengths)
    clusters = cluster_scores(
        embedding,
        labels,
        repeats=protocol.clusterings,
        n_init=protocol.cluster_starts,
        seed=seed,
    )
    return NodeResults(protocol, linear, logistic, clusters)
