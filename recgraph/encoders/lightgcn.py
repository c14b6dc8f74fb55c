"""LightGCN's propagation over the graph of users and items."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from recgraph.sparse.csr import Csr
from recgraph.sparse.normalise import power
from recgraph.sparse.ragged import Ragged
from recgraph.sparse.spmm import spmm

__all__ = ["LightGCN", "symmetric_product"]

T = TypeVar("T")

#: added to the output of a layer, given that output
Perturbation = Callable[[Tensor], Tensor]


class LightGCN(nn.Module):
    """Vectors of users and items, each layer the normalised sum of the neighbours' vectors; the mean over layers.

    ``E_k = D^-1/2 A D^-1/2 E_(k-1)`` with A the binary adjacency of users (nodes ``0 ... n_users - 1``) and items
    (``n_users + item_idx``), and the mean of ``E_0 ... E_K``. There are no weights to learn here. Source: He et al.,
    LightGCN (SIGIR 2020), equations 3, 6 and 8.

    The graph is part of the state, so that a saved model ranks without its training data; before :meth:`connect` it
    has no edge. Until then, and for a node without edges, the mean is ``E_0 / (K + 1)``.

    Args:
        n_users, n_items: the numbers of nodes.
        n_layers: K.
    """

    offsets: Tensor
    items: Tensor

    def __init__(self, n_users: int, n_items: int, n_layers: int) -> None:
        super().__init__()
        self.n_users, self.n_items, self.n_layers = n_users, n_items, n_layers
        # half the bytes of int64, in every checkpoint
        self.register_buffer("offsets", torch.zeros(n_users + 1, dtype=torch.int64))
        self.register_buffer("items", torch.zeros(0, dtype=torch.int32))
        self._made: dict[Hashable, Any] = {}

    def connect(self, rows: Ragged) -> None:
        """Set the edges.

        Args:
            rows: n_users rows of distinct item indices, ascending.

        Raises:
            ValueError: the number of users is another.
        """
        if rows.n_rows != self.n_users:
            raise ValueError(f"rows has {rows.n_rows} users, the encoder was built for {self.n_users}")
        device = self.offsets.device
        self.offsets, self.items = rows.offsets.to(device), rows.values.to(device, torch.int32)
        self._made = {}

    @property
    def n_edges(self) -> int:
        return self.items.numel()

    @property
    def edge_users(self) -> Tensor:
        """[n_edges] int64: the user of each edge."""
        return self._edges()[0]

    @property
    def edge_items(self) -> Tensor:
        """[n_edges] int64: the item of each edge, 0-based."""
        return self._edges()[1]

    def adjacency(self, dtype: torch.dtype = torch.float32) -> Csr:
        """The symmetric normalised adjacency of all nodes; made once."""
        return self._once(("adjacency", dtype), lambda: self._normalised(*self._edges(), self._item_order(), dtype))

    def subgraph(self, keep_mask: Tensor, dtype: torch.dtype = torch.float32) -> Csr:
        """The adjacency of some of the edges, normalised by the degrees that they leave.

        Args:
            keep_mask: [n_edges] bool.
        """
        users, items = self._edges()
        order = self._item_order()
        kept = order[keep_mask[order]]
        number = keep_mask.cumsum(0) - 1
        return self._normalised(users[keep_mask], items[keep_mask], number[kept], dtype)

    def layers(self, x: Tensor, adjacencies: Sequence[Csr] = (), perturb: Perturbation | None = None) -> list[Tensor]:
        """The vectors after each layer.

        Args:
            x: [n_users + n_items, D], ``E_0``.
            adjacencies: of each layer, symmetric; default: the whole graph's in all.
            perturb: gives what is added to each layer's output, before the next layer reads it.

        Returns:
            ``[E_0, ..., E_K]``.
        """
        every = [x]
        for adjacency in adjacencies or [self.adjacency(x.dtype)] * self.n_layers:
            x = symmetric_product(adjacency, x)
            if perturb is not None:
                x = x + perturb(x.detach())
            every.append(x)
        return every

    def forward(self, x: Tensor, adjacencies: Sequence[Csr] = ()) -> Tensor:
        """[n_users + n_items, D]: the mean over ``E_0 ... E_K``; see :meth:`layers`."""
        return mean(self.layers(x, adjacencies))

    def _edges(self) -> tuple[Tensor, Tensor]:
        return self._once("edges", lambda: (Ragged(self.items, self.offsets).rows, self.items.long()))

    def _item_order(self) -> Tensor:
        """[n_edges] int64: the edges by item, then user."""
        return self._once("order", lambda: torch.argsort(self._edges()[1], stable=True))

    def _normalised(self, users: Tensor, items: Tensor, by_item: Tensor, dtype: torch.dtype) -> Csr:
        degrees = torch.cat(
            [torch.bincount(users, minlength=self.n_users), torch.bincount(items, minlength=self.n_items)]
        )
        indptr = torch.cat([degrees.new_zeros(1), degrees.cumsum(0)])
        root = power(degrees.to(dtype), -0.5)
        of_edge = root[users] * root[self.n_users + items]
        indices = torch.cat([items + self.n_users, users[by_item]])
        n_nodes = self.n_users + self.n_items
        return Csr(indptr, indices, torch.cat([of_edge, of_edge[by_item]]), (n_nodes, n_nodes))

    def _once(self, key: Hashable, make: Callable[[], T]) -> T:
        every = self._made  # read once: another thread may replace it
        if key not in every:
            # made under inference mode it could not be used in training
            with torch.inference_mode(False):
                every[key] = make()
        made: T = every[key]
        return made

    def _apply(self, *args: Any) -> Any:
        self._made = {}
        return super()._apply(*args)  # type: ignore[no-untyped-call]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # the number of edges is known by the state alone
        if f"{prefix}items" in state_dict:
            self.items = self.items.new_empty(state_dict[f"{prefix}items"].shape)
        self._made = {}
        super()._load_from_state_dict(state_dict, prefix, *args)


def mean(layers: Sequence[Tensor]) -> Tensor:
    """The mean of tensors of one shape."""
    if len(layers) == 1:
        return layers[0]
    total = layers[0] + layers[1]
    for layer in layers[2:]:
        total += layer
    return total.mul_(1 / len(layers))


def symmetric_product(adjacency: Csr, x: Tensor) -> Tensor:
    """``A x`` for a symmetric A without gradients to its weights; it is its own transpose in backward, so that none is
    made."""
    product: Tensor = _SymmetricProduct.apply(adjacency, x)  # type: ignore[no-untyped-call]
    return product


class _SymmetricProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, adjacency: Csr, x: Tensor) -> Tensor:
        ctx.adjacency = adjacency
        return spmm(adjacency, x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor]:
        return None, symmetric_product(ctx.adjacency, grad)
