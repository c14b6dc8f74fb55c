"""Augmentations of graphs: edges, nodes or features are left out at random."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, overload

import torch
from pydantic import Field
from torch import Tensor

from recgraph.config import Config, Search, configure
from recgraph.rng import Generators
from recgraph.sparse.csr import Csr

#: within a class, ``Config`` is its own
BaseConfig = Config


class GraphAugmentation:
    """Base of the augmentations of graphs. A subclass sets ``Config`` and defines ``__call__(value,
    generator)``.

    ``value`` is what ``reads`` says: an adjacency (a :class:`Csr`; the augmented one has its
    shape), or the features of nodes [N, F], dense or sparse. Both stay as they are.

    Args:
        config: the settings as a value, or
        settings: the settings by name.
    """

    reads: ClassVar[Literal["adjacency", "features"]] = "adjacency"
    Config: ClassVar[type[BaseConfig]] = BaseConfig

    def __init__(self, config: BaseConfig | None = None, /, **settings: Any) -> None:
        self.config: Any = configure(self, self.Config, config, settings)

    def __call__(self, value: Any, generator: torch.Generator) -> Any:
        raise NotImplementedError

    def stream(self, generators: Generators, name: str) -> torch.Generator:
        """The generator for what has this name (a path, a node type); it starts afresh at every
        call, so that the same is drawn however often it is asked for."""
        return generators.fresh(f"view/{type(self).__name__}/{name}")


def keep_some(
    n: int, ratio: float, generator: torch.Generator, device: torch.device
) -> torch.Tensor:
    """[n] bool: False for ``floor(ratio * n)`` places, uniform without replacement.

    Args:
        generator: may live on another device than the result, so that all devices draw the same.
    """
    keep_mask = torch.ones(n, dtype=torch.bool, device=generator.device)
    order = torch.randperm(n, generator=generator, device=generator.device)
    keep_mask[order[: int(ratio * n)]] = False
    return keep_mask.to(device)


Ratio = Annotated[float, Field(ge=0, lt=1)]


class EdgeDropConfig(Config):
    ratio: Annotated[
        Ratio | tuple[Ratio, ...],
        Field(
            description="the share of the entries that is left out; of several graphs, as of meta-paths, one each"
        ),
        Search(low=0.0, high=0.8),
    ] = 0.3
    binary: Annotated[
        bool, Field(exclude=True, description="what is kept becomes 1; False leaves it its weight")
    ] = True
    self_loops: Annotated[
        bool,
        Field(
            exclude=True,
            description="of square matrices: rows and columns are the same nodes, the diagonal is never drawn, and is "
            "1 throughout; False treats it as the rest",
        ),
    ] = True


class EdgeDrop(GraphAugmentation):
    """Leave out ``floor(ratio * n)`` of the n entries, each direction by itself, uniform without
    replacement.

    Source: MEOW (SDM 2023) with the defaults: off-diagonal entries of a path's top-K matrix are
    deleted, the rest made binary, the identity added; normalise the result (``normalise(augmented,
    "meow")``). SGL (Wu et al., SIGIR 2021) drops edges of the user-item matrix, with
    ``self_loops=False``.
    """

    Config = EdgeDropConfig

    def __call__(self, adj: Csr, generator: torch.Generator) -> Csr:
        """[R, C] of ``adj`` [R, C], on its device."""
        return self.apply(adj, self.draw(adj, generator))

    def draw(self, adj: Csr, generator: torch.Generator) -> Tensor:
        """[E] bool: which entries stay (with self-loops those on the diagonal count as staying)."""
        keep_mask = self._is_there(adj)
        may_go = keep_mask
        if self._has_loops(adj):
            may_go = keep_mask & (adj.rows != adj.indices)
        places = torch.nonzero(may_go).squeeze(1)
        keep_mask[places] = keep_some(places.numel(), self.config.ratio, generator, adj.device)
        return keep_mask

    def apply(self, adj: Csr, keep_mask: Tensor) -> Csr:
        """The augmented matrix that keeps the given entries ([E] bool)."""
        kept = adj.select(keep_mask)
        if self.config.binary:
            kept = kept.with_weights(None)
        if self._has_loops(adj):
            kept = kept.with_diagonal(1.0)
        return kept

    def _is_there(self, adj: Csr) -> Tensor:
        """[E] bool: where what is kept becomes 1, an entry of weight 0 is none, or it would become
        1 too.
        """
        if self.config.binary and adj.weights is not None:
            return adj.weights != 0
        return torch.ones(adj.nnz, dtype=torch.bool, device=adj.device)

    def _has_loops(self, adj: Csr) -> bool:
        return bool(self.config.self_loops) and adj.shape[0] == adj.shape[1]


class NodeDropConfig(EdgeDropConfig):
    ratio: Annotated[
        Ratio | tuple[Ratio, ...],
        Field(
            description="the share of the nodes whose entries are left out; of several graphs one each"
        ),
        Search(low=0.0, high=0.8),
    ] = 0.3


class NodeDrop(EdgeDrop):
    """Leave out the entries of ``floor(ratio * n)`` of n nodes, uniform without replacement.

    Rows and columns are drawn each by themselves, but where they are the same nodes
    (``self_loops``).

    Source: SGL (Wu et al., SIGIR 2021), users and items of their matrix, with ``self_loops=False``.
    """

    Config = NodeDropConfig

    def draw(self, adj: Csr, generator: torch.Generator) -> Tensor:
        """[E] bool: which entries stay."""
        n_rows, n_columns = adj.shape
        rows = keep_some(n_rows, self.config.ratio, generator, adj.device)
        columns = rows
        if not self._has_loops(adj):
            columns = keep_some(n_columns, self.config.ratio, generator, adj.device)
        return rows[adj.rows] & columns[adj.indices] & self._is_there(adj)


class FeatureMaskConfig(Config):
    ratio: Annotated[
        float,
        Field(ge=0, lt=1, description="the share of the features that are not 0 which becomes 0"),
        Search(low=0.0, high=0.8),
    ] = 0.3


class FeatureMask(GraphAugmentation):
    """Set ``floor(ratio * n)`` of the n features that are not 0 to 0, uniform over all nodes
    without replacement.

    Source: MEOW (SDM 2023). What is left is not scaled.
    """

    Config = FeatureMaskConfig
    reads = "features"

    @overload
    def __call__(self, features: Tensor, generator: torch.Generator) -> Tensor: ...
    @overload
    def __call__(self, features: Csr, generator: torch.Generator) -> Csr: ...
    def __call__(self, features: Tensor | Csr, generator: torch.Generator) -> Tensor | Csr:
        """[N, F] of ``features`` [N, F], dense or sparse, on their device."""
        if isinstance(features, Csr):
            values = features.values()
            keep_mask = torch.ones_like(values, dtype=torch.bool)
            return features.select(keep_mask.index_fill(0, self._draw(values, generator), False))
        values = features.reshape(-1)
        return values.index_fill(0, self._draw(values, generator), 0).view(features.shape)

    def _draw(self, values: Tensor, generator: torch.Generator) -> Tensor:
        """The places of the features [E] that become 0."""
        places = torch.nonzero(values).squeeze(1)
        return places[~keep_some(places.numel(), self.config.ratio, generator, values.device)]
