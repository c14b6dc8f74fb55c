"""IALS."""

from __future__ import annotations

from typing import Annotated, Self

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Search
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.models.base import ClosedFormModel, ModelConfig, Space
from recgraph.models.closed_form.neighbours import fit_matrix
from recgraph.rng import Generators
from recgraph.sparse.csr import Csr
from recgraph.sparse.products import distinct, presence, ridge_rows


class IALSConfig(ModelConfig):
    hidden_dim: Annotated[
        int,
        Field(ge=1, description="width of user and item vectors"),
        Search(choices=(32, 64, 128, 256)),
    ] = 64
    confidence: Annotated[
        float,
        Field(
            gt=0,
            description="alpha: an interaction of weight w counts 1 + alpha w, anything else 1",
        ),
        Search(1, 200, log=True),
    ] = 20.0
    l2: Annotated[
        float,
        Field(gt=0, description="lambda, the ridge penalty of a vector"),
        Search(0.1, 1000.0, log=True),
    ] = 20.0
    frequency_power: Annotated[
        float,
        Field(
            ge=0,
            le=2,
            description="nu: l2 grows with the summed confidences of a row ** nu; 0: Hu et al.",
        ),
        Search(choices=(0.0, 0.5, 1.0)),
    ] = 0.0
    n_iterations: Annotated[int, Field(ge=1, description="of both half-steps"), Search(4, 32)] = 16
    init_std: Annotated[
        float,
        Field(
            gt=0, description="of the first item vectors' entries, times the root of their width"
        ),
    ] = 0.1


class IALS(ClosedFormModel):
    """Matrix factorisation of all cells by alternating least squares.

    ``min sum_ui c_ui (p_ui - x_u y_i)^2 + sum_u l2_u |x_u|^2 + sum_i l2_i |y_i|^2``, with p 1 and c
    = 1 + alpha w_ui where u has i, else 0 and 1; w is 1 without a column of weights. Each half-step
    solves every row's normal equations ``x_u = (Y'Y + alpha sum_{i of u} w_ui y_i y_i' + l2_u I)^-1
    sum_{i of u} (1 + alpha w_ui) y_i``.

    Source: Hu, Koren and Volinsky, Collaborative Filtering for Implicit Feedback Datasets (ICDM
    2008), equations 3 to
    5. ``frequency_power`` (nu) is the frequency-scaled regularisation of Rendle et al., Revisiting
       the Performance of iALS (RecSys 2022), used with iALS++ too: ``l2_u = l2 s_u^nu / mean s^nu``
       with ``s_u = sum_i c_ui`` (their ``|I_u| + alpha_0 |I|`` times alpha, ``alpha_0 = 1 /
       alpha``) and the mean over all users and items: their lambda* at reference nu* = 0, so that
       one l2 suits every nu. The start is theirs: N(0, ``init_std`` / sqrt(D)).

    A user is ranked for by folding in: the half-step above for the history given, with the item
    vectors fixed; so unknown users are served, and what a known one did since is read, all of
    weight 1. No user vectors are kept. Departures: whole vectors are solved at once (iALS++ solves
    blocks of coordinates); repeats do not add confidence, but their weights do.

    Attributes:
        item_vectors: [n_items, D] float32.
        mean_scale: [], the mean of s^nu.
    """

    Config = IALSConfig
    reads_weights = True
    reads_repeats = False
    item_vectors: Tensor
    mean_scale: Tensor

    def _build(self, space: Space) -> None:
        self.register_buffer("item_vectors", torch.zeros(space.n_items, self.config.hidden_dim))
        self.register_buffer("mean_scale", torch.ones(()))

    @torch.no_grad()
    def fit(self, train: Part) -> Self:
        config = self.config
        users = fit_matrix(self, train, self.item_vectors.device)
        items = users.t()
        known_mask = users.degrees > 0
        user_scale = self._scale(users, train.n_items)
        item_scale = self._scale(items, int(known_mask.sum()))
        self.mean_scale.copy_(torch.cat([user_scale[known_mask], item_scale]).mean())
        ridge_u = config.l2 * user_scale / self.mean_scale
        ridge_i = config.l2 * item_scale / self.mean_scale
        y = self._start()
        for _ in range(config.n_iterations):
            x = ridge_rows(users, y, config.confidence, ridge_u)
            y = ridge_rows(items, x, config.confidence, ridge_i)
        self.item_vectors.copy_(y)
        return self

    def _start(self) -> Tensor:
        """The first item vectors, by the seed that the model was built with."""
        generator = Generators(self.seed).fresh("ials")
        drawn = torch.randn(self.item_vectors.shape, generator=generator)
        return drawn.to(self.item_vectors).mul_(self.config.init_std / self.config.hidden_dim**0.5)

    def _scale(self, rows: Csr, n_columns: int) -> Tensor:
        """[R]: the summed confidences of each row ** nu."""
        total = n_columns + self.config.confidence * rows.row_sums().to(self.item_vectors.dtype)
        scale: Tensor = total.pow(self.config.frequency_power)
        return scale

    def encode_users(self, query: Query) -> Tensor:
        n_items = len(self.item_vectors)
        history = presence(distinct(query.history, n_items), n_items)
        ridge = self.config.l2 * self._scale(history, n_items) / self.mean_scale
        return ridge_rows(history, self.item_vectors, self.config.confidence, ridge)

    def encode_items(self) -> Tensor:
        return self.item_vectors
