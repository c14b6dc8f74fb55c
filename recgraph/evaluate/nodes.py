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
    train_labels, valid_labels, test_labels = (
        labels[part] for part in (split.train, split.valid, split.test)
    )
    draw, bound = (
        torch.Generator(x.device).manual_seed(derive(seed, "probe")),
        math.sqrt(6 / (x.shape[1] + n_classes)),
    )
    weight = torch.empty(n_classes, config.repeats, x.shape[1], device=x.device)
    weight.uniform_(-bound, bound, generator=draw).requires_grad_()
    bias = torch.zeros(n_classes, config.repeats, 1, device=x.device).requires_grad_()
    optimiser = torch.optim.Adam(
        [weight, bias], lr=config.learning_rate, weight_decay=config.weight_decay
    )
    # of each classifier its first best validation score and its weights then, by Macro-F1 and by
    # Micro-F1
    worst = torch.full((config.repeats,), -torch.inf, dtype=torch.float64, device=x.device)
    best = [(worst.clone(), weight.detach().clone(), bias.detach().clone()) for _ in range(2)]
    for _ in range(config.steps):
        logits = _logits(weight, bias, x[split.train])
        of_label = logits.gather(0, train_labels.expand(1, config.repeats, -1))[0]
        # the sum over classifiers of the mean cross-entropy: each gets its own gradient
        loss = (logits.logsumexp(0) - of_label).mean(1).sum()
        weight.grad, bias.grad = torch.autograd.grad(loss, (weight, bias))
        optimiser.step()
        with torch.no_grad():
            predicted = _logits(weight, bias, x[split.valid]).max(0).indices
            scores = f1_scores(predicted, valid_labels, n_classes)
            for score, (best_score, *best_weights) in zip(scores, best, strict=True):
                better = score > best_score
                torch.where(better, score, best_score, out=best_score)
                for then, now in zip(best_weights, (weight, bias), strict=True):
                    torch.where(better[:, None], now, then, out=then)
    by_macro, by_micro = (_logits(w, b, x[split.test]) for _, w, b in best)
    macro, _ = f1_scores(by_macro.max(0).indices, test_labels, n_classes)
    _, micro = f1_scores(by_micro.max(0).indices, test_labels, n_classes)
    return ProbeScores(macro, micro, _areas(torch.softmax(by_micro, 0), test_labels))


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
    host, labels = x.double().cpu().numpy(), labels.cpu()
    train, valid, test = (index.cpu().numpy() for index in (split.train, split.valid, split.test))
    rows = []
    for strength in strengths:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        model.fit(host[train], labels.numpy()[train])
        on_valid = torch.as_tensor(model.predict(host[valid]))[None]
        on_test = torch.zeros(n_classes, 1, len(test), dtype=torch.float64)
        on_test[model.classes_, 0] = torch.as_tensor(model.predict_proba(host[test]).T)
        scores = f1_scores(on_test.max(0).indices, labels[test], n_classes)
        rows.append(
            (f1_scores(on_valid, labels[valid], n_classes), scores, _areas(on_test, labels[test]))
        )
    by_macro = max(rows, key=lambda row: float(row[0][0]))
    by_micro = max(rows, key=lambda row: float(row[0][1]))
    return ProbeScores(by_macro[1][0], by_micro[1][1], by_micro[2])


def cluster_scores(
    embedding: Tensor, labels: Tensor, *, repeats: int = 10, n_init: int = 10, seed: int = 0
) -> dict[str, float]:
    """The published protocol of clustering: k-means on all nodes of a known class, with as many
    clusters as classes; ``nmi`` and ``ari``, means over the repeats. The ARI depends strongly on
    ``n_init``."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    known = labels >= 0
    if not bool(known.all()):
        embedding, labels = embedding[known.to(embedding.device)], labels[known]
    x, truth = embedding.detach().cpu().numpy(), labels.cpu().numpy()
    nmi, ari = [], []
    for repeat in range(repeats):
        state = derive(seed, "clusters", repeat) % 2**32
        found = KMeans(len(set(truth.tolist())), n_init=n_init, random_state=state).fit_predict(x)
        nmi.append(normalized_mutual_info_score(truth, found))
        ari.append(adjusted_rand_score(truth, found))
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
        if not n_positive or not n_negative:
            continue
        ordered = scores.sort(1).values
        below, upto = (torch.searchsorted(ordered, scores, right=right) for right in (False, True))
        ranks = (below + upto + 1).to(torch.float64) / 2
        wins = ranks[:, positive].sum(1) - n_positive * (n_positive + 1) / 2
        areas.append(wins / (n_positive * n_negative))
    return torch.stack(areas).mean(0)


def _checked(embedding: Tensor, labels: Tensor, split: NodeSplit) -> tuple[Tensor, Tensor, int]:
    """The embedding in the default type, the classes numbered from 0 without gaps, and how many there
    are.
    """
    for part in ("train", "valid"):
        if shared := int(torch.isin(split.test, getattr(split, part)).sum()):
            raise ValueError(
                f"split: {shared:,} test nodes are {part} nodes, too; leave them out of one"
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
        found = [
            {"probe": name, "labels": labels, **empty, **scores.mean()}
            for name, table in (("linear", self.linear), ("logistic", self.logistic))
            for labels, scores in table.items()
        ]
        return [*found, {"probe": "k-means", "labels": "none", **empty, **self.clusters}]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON: means, and deviations over the probes (not over
        trainings).
        """
        found: dict[str, Any] = {
            "protocol": self.protocol.model_dump(mode="json"),
            "protocol_hash": self.hash,
        }
        for name, table in (("linear", self.linear), ("logistic", self.logistic)):
            found[name] = {
                labels: {"mean": each.mean(), "std": each.std()} for labels, each in table.items()
            }
        return {**found, "clusters": dict(self.clusters)}

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
    of_task, n_init = (embedding, task.labels), protocol.cluster_starts
    return NodeResults(
        protocol,
        {
            name: linear_probe(*of_task, split, protocol.probe, seed=seed)
            for name, split in task.splits.items()
        },
        {
            name: logistic_probe(*of_task, split, strengths=protocol.strengths)
            for name, split in task.splits.items()
        },
        cluster_scores(*of_task, repeats=protocol.clusterings, n_init=n_init, seed=seed),
    )
