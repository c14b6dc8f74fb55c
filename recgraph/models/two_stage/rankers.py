"""Second stages: they learn from labelled candidates which of a user's candidates come first."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Config, Search
from recgraph.encoders.kept import SizedByState

__all__ = ["BoostedTrees", "Logistic", "Ranker"]

#: candidates that go through the trees at a time, so that what is made of them stays in a core's cache
_ROWS = 2**14
#: rows whose scores are compared with scikit-learn's own, and how near they must be
_COMPARED, _NEAR = 1000, 1e-9


class Ranker(SizedByState):
    """Base of second stages: a subclass defines ``fit`` and ``score``.

    What it learns is buffers, so that it is saved and loaded with the model and no code is; those whose length the
    settings do not say are named in ``sized_by_state``, and have one dimension. Settings are a ``Config``; a setting
    ``seed`` is filled in by the model.

    A ranker of another library keeps its text or bytes as a buffer of uint8: see the documentation, "Two stages".
    """

    Config: ClassVar[type[Config]] = Config

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.config: Any = self.Config.of(settings)

    def fit(self, features: Tensor, labels: Tensor, groups: Tensor) -> object:
        """Learn from labelled candidates.

        Args:
            features: [R, F] float32, NaN where a value is missing; the rows of a user are one after another.
            labels: [R] float32, 1 for a candidate that the user chose next, else 0; both are there.
            groups: [G] int64, the rows of each user; they sum to R.
        """
        raise TypeError(f"{type(self).__name__} must define fit(features, labels, groups)")

    def score(self, features: Tensor) -> Tensor:
        """[R]: the scores of candidates, higher is better; of a row alone what it is among others.

        They are compared in float32, as the scores of other models: subtract a constant from all where they are large.
        """
        raise TypeError(f"{type(self).__name__} must define score(features)")


class BoostedTreesConfig(Config):
    max_iter: Annotated[int, Field(ge=1, le=10_000, description="trees"), Search(50, 400, log=True)] = 100
    learning_rate: Annotated[
        float, Field(gt=0, description="share of each tree in the sum"), Search(0.01, 0.3, log=True)
    ] = 0.05
    max_leaf_nodes: Annotated[int, Field(ge=2, le=1000, description="leaves of a tree"), Search(4, 63, log=True)] = 7
    min_samples_leaf: Annotated[
        int, Field(ge=1, description="candidates that a leaf holds, at least"), Search(5, 200, log=True)
    ] = 50
    l2: Annotated[float, Field(ge=0, description="penalty of the leaves' squares"), Search(1e-3, 100.0, log=True)] = 1.0
    seed: Annotated[int, Field(description="of the rows that the bounds of the histograms are read from")] = 0


class BoostedTrees(Ranker):
    """Gradient-boosted trees of the logistic loss: scikit-learn's ``HistGradientBoostingClassifier``, on the host.

    The trees are kept as arrays, and walked here; nothing of scikit-learn is saved. Missing values go the way that each
    split has learnt for them. Source: Ke et al., LightGBM: A Highly Efficient Gradient Boosting Decision Tree
    (NeurIPS 2017).

    Attributes:
        column: [T, N] int64, the feature that a node of a tree asks for; T is ``max_iter``, N the most nodes.
        threshold: [T, N] float64; values up to it go to the left.
        missing_left: [T, N] bool, whether a missing one does.
        left, right: [T, N] int64, the next node of the tree; of a leaf itself.
        value: [T, N] float64, of leaves.
        start: float64 scalar, the score before any tree.
    """

    Config = BoostedTreesConfig
    column: Tensor
    threshold: Tensor
    missing_left: Tensor
    left: Tensor
    right: Tensor
    value: Tensor
    start: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        shape = self.config.max_iter, 2 * self.config.max_leaf_nodes - 1
        itself = torch.arange(shape[1]).expand(shape)
        self.register_buffer("column", torch.zeros(shape, dtype=torch.int64))
        self.register_buffer("threshold", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("missing_left", torch.zeros(shape, dtype=torch.bool))
        self.register_buffer("left", itself.clone())
        self.register_buffer("right", itself.clone())
        self.register_buffer("value", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("start", torch.zeros((), dtype=torch.float64))

    def fit(self, features: Tensor, labels: Tensor, groups: Tensor) -> object:
        from sklearn.ensemble import HistGradientBoostingClassifier

        # scikit-learn refuses a column without a number, which no tree can ask for anyway
        config, x = self.config, _on_host(features.masked_fill(features.isnan().all(0), 0.0))
        made = HistGradientBoostingClassifier(
            learning_rate=config.learning_rate,
            max_iter=config.max_iter,
            max_leaf_nodes=config.max_leaf_nodes,
            min_samples_leaf=config.min_samples_leaf,
            l2_regularization=config.l2,
            early_stopping=False,
            random_state=config.seed % 2**32,
        ).fit(x, _on_host(labels) > 0)
        self._take(made)
        ours, theirs = self.score(features[:_COMPARED]), made.decision_function(x[:_COMPARED])
        if not np.allclose(_on_host(ours), theirs, _NEAR, _NEAR):
            raise RuntimeError(
                "this version of scikit-learn keeps its trees in another form than recgraph reads; use "
                "ranker='logistic', and report it"
            )
        return self

    def _take(self, made: Any) -> None:
        """Copy the trees of a fitted classifier."""
        self.start.fill_(float(made._baseline_prediction.item()))
        limit = np.finfo(np.float64).max
        for number, (tree,) in enumerate(made._predictors):
            nodes, itself = tree.nodes, np.arange(len(tree.nodes))
            is_leaf = nodes["is_leaf"].astype(bool)
            for name, values in (
                ("column", np.where(is_leaf, 0, nodes["feature_idx"])),
                ("threshold", np.where(is_leaf, 0, np.clip(nodes["num_threshold"], -limit, limit))),
                ("missing_left", nodes["missing_go_to_left"].astype(bool)),
                ("left", np.where(is_leaf, itself, nodes["left"])),
                ("right", np.where(is_leaf, itself, nodes["right"])),
                ("value", np.where(is_leaf, nodes["value"], 0)),
            ):
                buffer = self.get_buffer(name)
                buffer[number, : len(nodes)] = torch.as_tensor(values, dtype=buffer.dtype, device=buffer.device)

    def score(self, features: Tensor) -> Tensor:
        names = ("column", "missing_left", "left", "right")
        trees = [*zip(*(self.get_buffer(name).tolist() for name in names), strict=True)]
        limits, values = ([tree.unbind() for tree in table.unbind()] for table in (self.threshold, self.value))
        found = [features.new_zeros(0, dtype=torch.float64)]
        for rows in torch.split(features, _ROWS):
            given = rows.double().T.contiguous()
            # a missing value is above every threshold, or where it goes to the left below
            below = (given, given.masked_fill(given.isnan(), -torch.inf))
            total = self.start.expand(len(rows)).clone()
            for (column, missing_left, left, right), limit, value in zip(trees, limits, values, strict=True):
                made = [*value]
                # from the leaves up: a node comes before its children
                for node in range(len(made) - 1, -1, -1):
                    if left[node] != node:
                        goes_left = below[missing_left[node]][column[node]] <= limit[node]
                        made[node] = torch.where(goes_left, made[left[node]], made[right[node]])
                total += made[0]
            found.append(total)
        return torch.cat(found)


class LogisticConfig(Config):
    l2: Annotated[
        float, Field(gt=0, description="penalty of the weights' squares, halved"), Search(1e-3, 100.0, log=True)
    ] = 1.0


class Logistic(Ranker):
    """Logistic regression on standardised features, a missing value in the place of the mean: the simple one.

    Attributes:
        mean, scale, weight: [F] float64.
        bias: float64 scalar.
    """

    Config = LogisticConfig
    sized_by_state = ("mean", "scale", "weight")
    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for name in self.sized_by_state:
            self.register_buffer(name, torch.zeros(0, dtype=torch.float64))
        self.register_buffer("bias", torch.zeros((), dtype=torch.float64))

    def fit(self, features: Tensor, labels: Tensor, groups: Tensor) -> object:
        from sklearn.linear_model import LogisticRegression

        x = features.double()
        self.mean = x.nanmean(0).nan_to_num(0.0)
        spread = (x - self.mean).square().nanmean(0).sqrt().nan_to_num(0.0)
        self.scale = torch.where(spread > 0, spread, 1.0)
        made = LogisticRegression(C=1 / self.config.l2, max_iter=1000)
        made.fit(_on_host(self._standardised(features)), _on_host(labels) > 0)
        self.weight = torch.from_numpy(made.coef_[0]).to(features.device)
        self.bias.fill_(float(made.intercept_[0]))
        return self

    def score(self, features: Tensor) -> Tensor:
        return self._standardised(features) @ self.weight + self.bias

    def _standardised(self, features: Tensor) -> Tensor:
        return ((features.double() - self.mean) / self.scale).nan_to_num(0.0)


def _on_host(values: Tensor) -> npt.NDArray[Any]:
    # scikit-learn runs there
    return np.asarray(values.to("cpu"))
