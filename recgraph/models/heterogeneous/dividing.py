"""A sampled neighbourhood divided among ranks: each has what its own rows of the batch depend on."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from recgraph.models.heterogeneous.paths import MetaPathInputs, PathInputs
from recgraph.models.heterogeneous.sampling import Reached, local_nodes, take_features
from recgraph.ranks import Share
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Chain
from recgraph.sparse.spmm import Layered

__all__ = ["share_of"]


def share_of(inputs: MetaPathInputs, share: Share) -> MetaPathInputs:
    """The inputs of this rank's nodes, taken from those that :class:`PathSampler` gives for the whole batch.

    An encoder gathers the rows of all ranks behind its last layer (:attr:`Layered.share`).
    """
    if share.is_whole:
        return inputs
    whole = [_layers(path) for path in inputs.paths]
    n_rows = whole[0][-1][0].shape[0]
    rows = torch.arange(n_rows, device=whole[0][-1][0].device)[share.rows]
    layers: list[list[tuple[Chain, ...]]] = []
    for number in reversed(range(len(whole[0]))):
        parts = [[_of_rows(chain, rows) for chain in layers_of_path[number]] for layers_of_path in whole]
        rows = torch.unique(torch.cat([chain.factors[-1].indices for pair in parts for chain in pair]))
        columns = rows
        if not number:
            contexts = {id(reached): _of_context(name, reached, rows) for name, reached in _contexts(inputs)}
            local = local_nodes(inputs, rows, contexts.values())
            columns = local[inputs.target]
        layers.append([tuple(_on_columns(chain, columns) for chain in pair) for pair in parts])
    made = {key: reached.relabelled(rows, local, inputs.target) for key, reached in contexts.items()}
    paths = []
    for place, path in enumerate(inputs.paths):
        adjacency, masked = (Layered(tuple(layer[place][k] for layer in reversed(layers)), share) for k in (0, 1))
        own = tuple((name, made[id(reached)]) for name, reached in path.contexts)
        paths.append(replace(path, plain=adjacency, adjacency=adjacency, masked=masked, contexts=own))
    features = {name: take_features(x, local[name]) for name, x in inputs.features.items()}
    return MetaPathInputs(inputs.target, features, take_features(inputs.masked, local[inputs.target]), tuple(paths))


def _layers(path: PathInputs) -> list[tuple[Chain, ...]]:
    """The path and its twin in each layer."""
    assert isinstance(path.adjacency, Layered)
    assert isinstance(path.masked, Layered)
    pairs = [*zip(path.adjacency.layers, path.masked.layers, strict=True)]
    assert all(isinstance(chain, Chain) for pair in pairs for chain in pair)
    return pairs  # type: ignore[return-value]  # asserted


def _contexts(inputs: MetaPathInputs) -> list[tuple[str, Csr]]:
    found = [(name, reached) for path in inputs.paths for name, reached in path.contexts]
    assert all(isinstance(reached, Csr) for _, reached in found)
    return found  # type: ignore[return-value]  # asserted


def _of_context(node_type: str, context: Csr, rows: Tensor) -> Reached:
    """What some rows of a context reach."""
    part = context.take_rows(rows)
    nodes = torch.unique(part.indices)
    return Reached(node_type, nodes, _relabelled(part, nodes))


def _of_rows(chain: Chain, rows: Tensor) -> Chain:
    """Some rows of a chain, of each later factor what they lead to; the last factor has all of its columns."""
    left, factors = None if chain.left is None else chain.left[rows], []
    for number, factor in enumerate(chain.factors):
        part = factor.take_rows(rows)
        if number < len(chain.factors) - 1:
            rows = torch.unique(part.indices)
            part = _relabelled(part, rows)
        factors.append(part)
    return Chain(tuple(factors), left, chain.right)


def _on_columns(chain: Chain, columns: Tensor) -> Chain:
    """With some of the columns, which hold all entries."""
    right = None if chain.right is None else chain.right[columns]
    return Chain((*chain.factors[:-1], _relabelled(chain.factors[-1], columns)), chain.left, right)


def _relabelled(matrix: Csr, columns: Tensor) -> Csr:
    indices = torch.searchsorted(columns, matrix.indices)
    return Csr(matrix.indptr, indices, matrix.weights, (matrix.shape[0], len(columns)))
