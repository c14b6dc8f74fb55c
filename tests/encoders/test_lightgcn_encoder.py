"""LightGCN's propagation: against PyG, against dense matrices, on subgraphs."""

from __future__ import annotations

import safetensors.torch
import torch
from torch import Tensor

from recgraph.encoders.graph import LightGCN, mean
from recgraph.sparse.ragged import Ragged

N_USERS, N_ITEMS, D = 12, 17, 6


def rows(seed: int = 0) -> Ragged:
    """Users of 0 to 9 items; the last item has no user."""
    g = torch.Generator().manual_seed(seed)
    lengths = [0, 1, *torch.randint(2, 10, (N_USERS - 2,), generator=g).tolist()]
    return Ragged.from_lists([torch.randperm(N_ITEMS - 1, generator=g)[:n].sort().values.tolist() for n in lengths])


def dense(edges: Ragged, keep_mask: Tensor | None = None) -> Tensor:
    """D^-1/2 A D^-1/2, written out."""
    keep = torch.ones(edges.values.numel(), dtype=torch.bool) if keep_mask is None else keep_mask
    a = torch.zeros(N_USERS + N_ITEMS, N_USERS + N_ITEMS, dtype=torch.float64)
    a[edges.rows[keep], N_USERS + edges.values[keep]] = 1
    a += a.T.clone()
    root = a.sum(1).clamp(min=1).rsqrt()
    return root[:, None] * a * root


def connected(n_layers: int = 3, device: torch.device | None = None) -> LightGCN:
    encoder = LightGCN(N_USERS, N_ITEMS, n_layers).to(device)
    encoder.connect(rows())
    return encoder


def vectors(dtype: torch.dtype = torch.float64, device: torch.device | None = None) -> Tensor:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(N_USERS + N_ITEMS, D, generator=g, dtype=torch.float64)
    return x.to(device, dtype).requires_grad_()


def test_values_and_gradients_equal_a_dense_oracle(device: torch.device) -> None:
    x, a = vectors(device=device), dense(rows()).to(device)
    oracle = sum((torch.linalg.matrix_power(a, k) for k in range(1, 4)), torch.eye(len(a), device=device)) / 4
    pull = torch.linspace(-1, 2, x.numel(), dtype=torch.float64, device=device).view_as(x)
    out = connected(device=device)(x)
    torch.testing.assert_close(out, oracle.to(x.dtype) @ x, rtol=1e-12, atol=1e-12)
    (grad,) = torch.autograd.grad(out, x, pull)
    torch.testing.assert_close(grad, oracle.to(x.dtype).T @ pull, rtol=1e-12, atol=1e-12)


def test_a_subgraph_is_normalised_by_its_own_degrees() -> None:
    encoder, edges = connected(), rows()
    keep_mask = torch.rand(encoder.edges.nnz, generator=torch.Generator().manual_seed(2)) > 0.4
    made = encoder.subgraph(encoder.edges.select(keep_mask), torch.float64)
    torch.testing.assert_close(made.to_dense(), dense(edges, keep_mask), rtol=1e-12, atol=1e-12)
    # as Csr wants them: columns ascending within a row
    inner = made.rows[1:] == made.rows[:-1]
    assert bool((made.indices[1:] > made.indices[:-1])[inner].all())
    whole = encoder.subgraph(encoder.edges, torch.float64)
    torch.testing.assert_close(whole.to_dense(), encoder.adjacency(torch.float64).to_dense())


def test_layers_of_their_own_adjacencies_and_noise() -> None:
    encoder, edges, x = connected(2), rows(), vectors()
    g = torch.Generator().manual_seed(2)
    masks = [torch.rand(encoder.edges.nnz, generator=g) > 0.5 for _ in range(2)]
    adjacencies = [encoder.subgraph(encoder.edges.select(mask), x.dtype) for mask in masks]
    layers = encoder.layers(x, adjacencies, perturb=lambda h: h.add_(h.sign()))
    first = dense(edges, masks[0]) @ x
    first = first + first.sign()
    second = dense(edges, masks[1]) @ first
    second = second + second.sign()
    for layer, expected in zip(layers, (x, first, second), strict=True):
        torch.testing.assert_close(layer, expected)
    pull = torch.ones_like(x)
    (grad,) = torch.autograd.grad(mean(layers), x, pull)
    (expected_grad,) = torch.autograd.grad((x + first + second) / 3, x, pull)
    torch.testing.assert_close(grad, expected_grad)


def test_the_graph_is_part_of_the_state() -> None:
    encoder, x = connected(), vectors()
    state = safetensors.torch.load(safetensors.torch.save(encoder.state_dict()))
    other = LightGCN(N_USERS, N_ITEMS, 3)
    # without edges the other layers are 0
    torch.testing.assert_close(other(x), x / 4)
    other.load_state_dict(state)
    torch.testing.assert_close(other(x), encoder(x))
    other.connect(Ragged.from_lists([[] for _ in range(N_USERS)]))
    torch.testing.assert_close(other(x), x / 4)


def test_a_graph_is_made_anew_only_where_its_edges_change() -> None:
    encoder = connected()
    made = encoder.adjacency()
    encoder.to("cpu").load_state_dict({name: tensor.clone() for name, tensor in encoder.state_dict().items()})
    assert encoder.adjacency() is made
    other = LightGCN(N_USERS, N_ITEMS, 3)
    swapped = rows().to_lists()
    # as many edges as before, of other users: their places alone tell
    swapped[0], swapped[1] = swapped[1], swapped[0]
    other.connect(Ragged.from_lists(swapped))
    encoder.load_state_dict(other.state_dict())
    torch.testing.assert_close(encoder.adjacency().to_dense(), other.adjacency().to_dense())
