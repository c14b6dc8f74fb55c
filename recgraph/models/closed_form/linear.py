"""EASE and SLIM: linear models of items by items."""

from __future__ import annotations

import warnings
from typing import Annotated, Literal, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from scipy.sparse import csr_matrix
from torch import Tensor

from recgraph.config import ConfigError, Search
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.models.base import ClosedFormModel, ModelConfig, PaddedForm, Space
from recgraph.models.closed_form.neighbours import (
    NeighbourConfig,
    NeighbourModel,
    PaddedScores,
    check_room,
    fit_matrix,
)
from recgraph.sparse.csr import Csr
from recgraph.sparse.products import co_occurrence, distinct

# items up to which "auto" solves in float64, three times the memory of float32
_FLOAT64_ITEMS = 25_000
# columns of the inverse that are checked, and the share of one that may be wrong before a fit warns
_CHECKED, _WRONG = 8, 1e-2


class EASEConfig(ModelConfig):
    l2: Annotated[
        float,
        Field(gt=0, description="lambda, the ridge penalty"),
        Search(low=1.0, high=5000.0, log=True),
    ] = 100.0
    solve_in: Annotated[
        Literal["auto", "float32", "float64"],
        Field(
            description="type of the solution: float64 takes 12 bytes a pair of items during the fit, float32 takes 4; "
            f"auto: float64 up to {_FLOAT64_ITEMS:,} items"
        ),
    ] = "auto"


class EASE(ClosedFormModel):
    """Linear autoencoder with a zero diagonal: ``min |X - X B|^2 + l2 |B|^2, diag(B) = 0``, solved
    exactly.

    ``P = (X'X + l2 I)^-1; B_ij = -P_ij / P_jj`` off the diagonal; the scores of a history x are ``x
    B``. X is binary, or holds the roots of the weights: a user of weights 2 counts as two. B is
    n_items x n_items and kept in float32: 4 bytes a cell.

    X'X is counted in blocks of rows; the factor and the inverse overwrite it. So a fit in float32
    holds B alone, and one in float64 twice that besides (``solve_in``). In float32 the error of
    some columns of P is estimated from their residuals, which are in float64, and a fit warns where
    that is more than a hundredth of a column.

    Source: Steck, Embarrassingly Shallow Autoencoders for Sparse Data (WWW 2019), equation 8.
    """

    Config = EASEConfig
    reads_weights = True
    reads_repeats = False
    weights: Tensor

    def _build(self, space: Space) -> None:
        # a fitted one, which is read from a bundle, takes no more than its weights
        check_room("EASE", 4 * space.n_items**2)
        self.register_buffer("weights", torch.zeros(space.n_items, space.n_items))

    def fit(self, train: Part) -> Self:
        solve_in = self.config.solve_in
        if solve_in == "auto":
            solve_in = "float64" if train.n_items <= _FLOAT64_ITEMS else "float32"
        matrix = fit_matrix(self, train, self.weights.device)
        inverse = self.weights
        if solve_in == "float64":
            check_room("EASE", 8 * train.n_items**2)  # beside the weights, which are there
            inverse = inverse.double()
        for first, block in co_occurrence(matrix):
            inverse[first : first + block.shape[0]] = block
        inverse.diagonal().add_(self.config.l2)
        # a symmetric matrix is its own transpose, whose columns are contiguous: what LAPACK wants,
        # so nothing is copied
        factor = inverse.mT
        info = torch.empty(0, dtype=torch.int32, device=inverse.device)
        torch.linalg.cholesky_ex(factor, out=(factor, info))
        if int(info):
            raise ConfigError(
                f"l2 = {self.config.l2:g} is too small for these {train.n_items:,} items in {solve_in}: give more, or "
                "solve_in = 'float64'"
            )
        torch.cholesky_inverse(factor, out=factor)
        if solve_in == "float32":
            self._check(inverse, matrix)
        inverse.div_(-inverse.diagonal().clone())
        inverse.fill_diagonal_(0)
        self.weights.copy_(inverse)
        return self

    def _check(self, inverse: Tensor, matrix: Csr) -> None:
        """Warn where columns of the inverse are wrong: ``P'_j - P_j`` is about ``P' ((X'X + l2 I)
        P'_j - e_j)``.

        The norm of the residual alone, by ``l2``, is a bound, but with more users than items one
        far too large.
        """
        items = torch.linspace(0, len(inverse) - 1, min(_CHECKED, len(inverse))).long().tolist()
        x = matrix.values(torch.float64).sqrt()
        residuals = []
        for item in items:
            column = inverse[item].double()
            users = column.new_zeros(matrix.shape[0])
            users.index_add_(0, matrix.rows, x * column[matrix.indices])
            residual = torch.zeros_like(column)
            residual.index_add_(0, matrix.indices, x * users[matrix.rows])
            residual.add_(column, alpha=self.config.l2)[item] -= 1
            residuals.append(residual.to(inverse.dtype))
        errors = torch.stack(residuals) @ inverse
        worst = float((errors.norm(dim=1) / inverse[items].norm(dim=1)).max())
        if worst > _WRONG:
            warnings.warn(
                f"EASE: solved in float32, columns of the inverse are wrong by up to {worst:.1%}; raise l2 = "
                f"{self.config.l2:g}, or set solve_in = 'float64' (three times the memory)",
                stacklevel=3,
            )

    def score(self, query: Query) -> Tensor:
        history = distinct(query.history, self.weights.shape[0])
        return F.embedding_bag(
            history.values, self.weights, history.offsets, mode="sum", include_last_offset=True
        )

    def padded_form(self) -> PaddedForm:
        return PaddedForm(PaddedScores(self.weights), "scores")


class SLIMConfig(NeighbourConfig):
    k: Annotated[
        int,
        Field(ge=1, description="weights kept of each item, the greatest; few items have more"),
        Search(50, 500),
    ] = 300
    l1: Annotated[
        float,
        Field(gt=0, description="lambda, penalty of the weights' sum: sparsity"),
        Search(0.1, 50.0, log=True),
    ] = 2.0
    l2: Annotated[
        float,
        Field(ge=0, description="beta, penalty of their squares, halved"),
        Search(1.0, 1000.0, log=True),
    ] = 50.0
    max_iter: Annotated[
        int, Field(ge=1, description="passes of the coordinate descent over an item's weights")
    ] = 500
    tol: Annotated[
        float,
        Field(gt=0, description="duality gap at which an item is solved, as a share of its users"),
    ] = 1e-4


class SLIM(NeighbourModel):
    """Sparse linear method: an item's score is a sparse, non-negative combination of the items of
    the history.

    For each item j, ``min_w 1/2 |x_j - X w|^2 + l2/2 |w|^2 + l1 |w|_1`` with ``w >= 0, w_j = 0``, X
    the [users, items] matrix of :class:`EASE`: column by column, by scikit-learn's ``ElasticNet``
    (cyclic coordinate descent) on the host in float64. Only the columns k of ``x_k'x_j`` above
    ``l1`` are given to it: all others' weights are exactly 0, because X and w are non-negative
    (their gradient is at least ``l1 - x_k'x_j``). Memory during the fit: X and a part of its
    columns; no matrix of items by items.

    Source: Ning and Karypis, SLIM: Sparse Linear Methods for Top-N Recommender Systems (ICDM 2011),
    the regularised problem, solved by columns as there; the penalties are the paper's, not divided
    by the number of users. Departure: at most ``k`` weights of each item are kept. ``fit`` warns
    where items are not solved to ``tol``.
    """

    Config = SLIMConfig

    def fit(self, train: Part) -> Self:
        from sklearn import config_context
        from sklearn.linear_model import ElasticNet

        # scikit-learn runs on the host
        config = self.config
        interactions = fit_matrix(self, train, torch.device("cpu"))
        roots = interactions.with_weights(interactions.values(torch.float64).sqrt())
        matrix = csr_matrix(roots.to_scipy())
        columns = matrix.tocsc()
        index = np.zeros(self.neighbours.shape, dtype=np.int64)
        weight = np.zeros(self.neighbours.shape, dtype=np.float32)
        net = ElasticNet(
            # scikit-learn divides the squared error by the number of rows
            alpha=(config.l1 + config.l2) / max(train.n_users, 1),
            l1_ratio=config.l1 / (config.l1 + config.l2),
            positive=True,
            fit_intercept=False,
            copy_X=False,
            max_iter=config.max_iter,
            tol=config.tol,
        )
        unsolved = 0
        with (
            warnings.catch_warnings(),
            config_context(assume_finite=True, skip_parameter_validation=True),
        ):
            warnings.simplefilter("ignore")  # counted instead
            for item in range(train.n_items):
                column = columns[:, [item]]
                shared = (column.T @ matrix).toarray().ravel()
                shared[item] = 0
                candidates = np.flatnonzero(shared > config.l1)
                if not len(candidates):
                    continue
                net.fit(columns[:, candidates], column.toarray().ravel(), check_input=False)
                coefficients = net.coef_
                unsolved += net.n_iter_ >= net.max_iter
                order = np.argsort(-coefficients, kind="stable")[: index.shape[1]]
                order = order[coefficients[order] > 0]
                index[item, : len(order)] = candidates[order]
                weight[item, : len(order)] = coefficients[order]
        if unsolved:
            limits = f"max_iter = {config.max_iter}, tol = {config.tol}"
            warnings.warn(
                f"SLIM: {unsolved} of {train.n_items} items are not solved within {limits}; raise max_iter, tol or l2",
                stacklevel=2,
            )
        self.neighbours.copy_(torch.from_numpy(index))
        self.similarities.copy_(torch.from_numpy(weight))
        return self
