"""Encoders: packed equals padded, and equal to the published code."""

from __future__ import annotations

import inspect
import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pointwise_oracles import of_batch
from refusing import refused
from torch import Tensor

from experiments.published_weights import encoder_weights
from recgraph import encoders, registry
from recgraph.encoders.attention import attend, pack
from recgraph.encoders.base import SequenceEncoder
from recgraph.encoders.gru import GRU
from recgraph.encoders.pointwise import HSTU, FuXi
from recgraph.encoders.transformer import (
    BSA,
    BidirectionalTransformer,
    FilteredLayer,
    GatedTransformer,
    Layer,
    Transformer,
    low_pass,
)
from recgraph.sparse.device import accelerator_path
from recgraph.sparse.ragged import Ragged

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def padded_transformer(
    encoder: Transformer, padded: Tensor, lengths: Tensor, table: Tensor
) -> Tensor:
    """The obvious padded computation, masked items excluded as keys; [B, L, D]."""
    length = padded.shape[1]
    places = torch.arange(length, device=padded.device)
    x = encoder.norm(F.embedding(padded, table, padding_idx=0) + encoder.position_embedding(places))
    visible = (places[:, None] >= places) & (padded != 0)[:, None, :]
    alone = ~visible.any(-1, keepdim=True) & torch.eye(length, device=padded.device).bool()
    bias = torch.zeros_like(visible, dtype=x.dtype).masked_fill(~(visible | alone), float("-inf"))[
        :, None
    ]
    for layer in encoder.layers:
        mixed = padded_attention(layer, x, bias)
        if isinstance(encoder, BSA):
            filtered = padded_filter(
                layer, x * (places < lengths[:, None])[:, :, None], encoder.max_len
            )
            mixed = layer.alpha * filtered + (1 - layer.alpha) * mixed
        x = layer.norm(mixed + layer.down(F.gelu(layer.up(mixed))))
    return x


def padded_attention(layer: Layer, x: Tensor, bias: Tensor) -> Tensor:
    n, length, _ = x.shape
    q, k, v = (
        part.view(n, length, layer.n_heads, -1).transpose(1, 2)
        for part in layer.qkv(x).chunk(3, -1)
    )
    scores = torch.softmax(q @ k.transpose(2, 3) / q.shape[-1] ** 0.5 + bias, -1)
    return layer.attention_norm(x + layer.out((scores @ v).transpose(1, 2).reshape(n, length, -1)))


def padded_filter(layer: FilteredLayer, x: Tensor, max_len: int) -> Tensor:
    """The filter of BSARec as published, by the transform of the sequence padded on the left to
    max_len.
    """
    frame = F.pad(x, (0, 0, max_len - x.shape[1], 0))
    frequencies = torch.fft.rfft(frame, dim=1, norm="ortho")
    frequencies[:, layer.c // 2 + 1 :] = 0
    low = torch.fft.irfft(frequencies, n=max_len, dim=1, norm="ortho")[:, max_len - x.shape[1] :]
    return layer.filter_norm(x + low + layer.sqrt_beta**2 * (x - low))


def padded_gated(
    encoder: GatedTransformer, padded: Tensor, lengths: Tensor, table: Tensor
) -> Tensor:
    """LiGR layers as RecTools writes them, with torch's own attention; masked items excluded as
    keys.
    """
    places = torch.arange(padded.shape[1], device=padded.device)
    x = F.embedding(padded, table, padding_idx=0) + encoder.position_embedding(places)
    visible = (places[:, None] >= places) & (padded != 0)[:, None, :]
    alone = ~visible.any(-1, keepdim=True) & torch.eye(len(places), device=padded.device).bool()
    for layer in encoder.layers:
        attention = torch.nn.MultiheadAttention(x.shape[-1], layer.n_heads, batch_first=True).to(x)
        attention.in_proj_weight, attention.in_proj_bias = layer.qkv.weight, layer.qkv.bias
        attention.out_proj.weight, attention.out_proj.bias = layer.out.weight, layer.out.bias
        hidden = ~(visible | alone).repeat_interleave(layer.n_heads, 0)
        normed = layer.attention_norm(x)
        x = (
            x
            + torch.sigmoid(layer.attention_gate(x))
            * attention(normed, normed, normed, attn_mask=hidden)[0]
        )
        first, second = layer.up.weight.chunk(2)
        normed = layer.norm(x)
        x = x + torch.sigmoid(layer.gate(x)) * layer.down(
            F.silu(normed @ first.T) * (normed @ second.T)
        )
    return x


def padded_gru(encoder: GRU, padded: Tensor, lengths: Tensor, table: Tensor) -> Tensor:
    out, _ = encoder.gru(table[padded].transpose(0, 1))
    return encoder.dense(out.transpose(0, 1))


def padded_bidirectional(
    encoder: Transformer, padded: Tensor, lengths: Tensor, table: Tensor
) -> Tensor:
    """Every place sees all of its row, masked items too, which are tokens as others."""
    places = torch.arange(padded.shape[1], device=padded.device)
    x = encoder.norm(F.embedding(padded, table) + encoder.position_embedding(places))
    hidden = (places >= lengths[:, None])[:, None, None]
    bias = torch.zeros_like(hidden, dtype=x.dtype).masked_fill(hidden, float("-inf"))
    for layer in encoder.layers:
        mixed = padded_attention(layer, x, bias)
        x = layer.norm(mixed + layer.down(F.gelu(layer.up(mixed))))
    return encoder.head_norm(F.gelu(encoder.head(x)))


CASES = {
    "bidirectionaltransformer": (BidirectionalTransformer, padded_bidirectional),
    "transformer": (Transformer, padded_transformer),
    "bsa": (BSA, padded_transformer),
    "fuxi": (FuXi, of_batch),
    "gatedtransformer": (GatedTransformer, padded_gated),
    "gru": (GRU, padded_gru),
    "hstu": (HSTU, of_batch),
}


def narrow(cls: type[Any], **settings: Any) -> SequenceEncoder:
    """An encoder with those of the settings that it has."""
    given = {"hidden_dim": 16, "max_len": 20, "dropout": 0.5, "causal": False, **settings}
    known = inspect.signature(cls).parameters
    made: SequenceEncoder = cls(**{key: value for key, value in given.items() if key in known})
    return made


def random_rows(
    device: torch.device, masked: bool, seed: int = 0, n: int = 40, longest: int = 20
) -> Ragged:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, longest + 1, (n,), generator=generator)
    values = torch.randint(0 if masked else 1, 30, (int(lengths.sum()),), generator=generator)
    if masked:
        values = values * (torch.rand(values.shape, generator=generator) > 0.3)
    return Ragged.from_lengths(values, lengths).to(device)


def test_every_sequence_encoder_is_covered() -> None:
    found = {name: registry.load("encoder", name) for name in registry.names("encoder")}
    of_sequences = {name: cls for name, cls in found.items() if issubclass(cls, SequenceEncoder)}
    assert of_sequences == {name: case[0] for name, case in CASES.items()}


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("masked", [False, True])
def test_packed_equals_padded(name: str, masked: bool, device: torch.device) -> None:
    """All states, the last ones, and their gradients."""
    cls, padded_encoder = CASES[name]
    torch.manual_seed(0)
    encoder = (
        narrow(cls, hidden_dim=16, max_len=20, n_layers=2, inner_dim=24, dropout=0.0)
        .to(device)
        .double()
        .eval()
    )
    table = torch.randn(30, 16, device=device, dtype=torch.float64, requires_grad=True)
    rows = random_rows(device, masked, n=12)
    expected = padded_encoder(encoder, rows.to_padded(), rows.lengths, table)
    at_last = expected[torch.arange(rows.n_rows, device=device), rows.lengths - 1]
    pairs = [
        (encoder(rows, table, last_only=False), expected[rows.rows, rows.positions]),
        (encoder(rows, table), at_last),
    ]
    for states, wanted in pairs:
        torch.testing.assert_close(states, wanted, atol=1e-13, rtol=1e-13)
        pull, given = torch.randn_like(wanted), [table, *encoder.parameters()]
        found = (
            torch.autograd.grad((each * pull).sum(), given, allow_unused=True, retain_graph=True)
            for each in (states, wanted)
        )
        for ours, theirs in zip(*found, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-9)


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("path", ["host", "accelerator"])
def test_the_states_of_some_places_are_those_of_all(name: str, path: str) -> None:
    torch.manual_seed(0)
    cls, wide = CASES[name][0], {"dtype": torch.float64}
    encoder = narrow(
        cls, hidden_dim=16, max_len=20, n_layers=2, inner_dim=24, dropout=0.0, time_bias=True
    ).double()
    table = torch.randn(30, 16, **wide, requires_grad=True)
    rows = random_rows(torch.device("cpu"), masked=True)
    places = rows.with_values(torch.arange(len(rows.values))).filter(
        torch.rand(len(rows.values)) < 0.2
    )
    assert 0 in places.lengths
    weights = torch.randn(len(places.values), 16, **wide)

    def of(states: Tensor) -> list[Tensor]:
        given = [table, *encoder.parameters()]
        return [states, *torch.autograd.grad((states * weights).sum(), given, allow_unused=True)]

    encoder.eval()
    every = of(encoder(rows, table, last_only=False)[places.values])
    with accelerator_path() if path == "accelerator" else nullcontext():
        some = of(encoder(rows, table, places=places))
        none = encoder(
            rows, table, places=places.filter(torch.zeros(len(places.values), dtype=torch.bool))
        )
    for got, want in zip(some, every, strict=True):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-9)
    assert none.shape == (0, 16)
    assert encoder(Ragged.from_lists([]), table).shape == (0, 16)


@pytest.mark.parametrize("name", sorted(CASES))
@pytest.mark.parametrize("longest", [1, 7])
def test_the_padded_form_for_exports_equals_the_packed_one(
    name: str, longest: int, device: torch.device
) -> None:
    torch.manual_seed(0)
    encoder = (
        narrow(CASES[name][0], hidden_dim=16, max_len=20, n_layers=2, inner_dim=24)
        .to(device)
        .double()
        .eval()
    )
    table = torch.randn(30, 16, device=device, dtype=torch.float64)
    rows = random_rows(device, masked=False, longest=longest)
    nothing = Ragged.from_lists([[0]], device)
    rows = Ragged.cat([rows, nothing])
    wide = rows.to_padded(width=longest if encoder.pads_to_any_length else 20).long()
    found = encoder.padded(F.embedding(wide, table), rows.lengths)
    # filters of the padded form are held in float32
    torch.testing.assert_close(found, encoder(rows, table), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(CASES))
def test_dropout_needs_a_generator_and_is_repeated_by_it(name: str, device: torch.device) -> None:
    encoder: SequenceEncoder = narrow(CASES[name][0]).to(device).train()
    table, rows = torch.randn(30, 16, device=device), random_rows(device, masked=False)
    with refused("generator"):
        encoder(rows, table)
    one, two, other = (
        encoder(rows, table, torch.Generator(device).manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(one, two)
    assert not torch.allclose(one, other)


def test_settings_out_of_their_range_are_refused() -> None:
    with refused("n_heads"):
        narrow(Transformer, n_heads=3)
    for settings in ({"attention_dropout": 1.0}, {"alpha": 1.5}, {"c": -3}):
        with refused(*settings):
            encoders.BSA(**settings)


def test_gated_layers_may_leave_embeddings_without_dropout() -> None:
    rows, table = random_rows(torch.device("cpu"), masked=False), torch.randn(30, 16)
    found = []
    for drops in (True, False):
        torch.manual_seed(0)
        encoder = narrow(GatedTransformer, attention_dropout=0.0, drops_embeddings=drops)
        for layer in encoder.layers:
            layer.dropout = 0.0
        found.append(encoder.train()(rows, table, torch.Generator().manual_seed(0)))
        assert torch.equal(found[-1], encoder.eval()(rows, table)) is not drops


def test_attention_gradients() -> None:
    packed = pack(
        Ragged.from_lists([[1], [2, 3], [4, 0, 5], [6, 7, 8], [1, 2, 3, 0]]), last_only=False
    )
    qkv = torch.randn(13, 12, dtype=torch.float64, requires_grad=True)
    queries = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    kv = torch.randn(13, 8, dtype=torch.float64, requires_grad=True)

    def again() -> torch.Generator:
        return torch.Generator().manual_seed(3)

    assert torch.autograd.gradcheck(
        lambda x: attend(x, packed, 2, 0.5, again()), qkv, fast_mode=True
    )
    assert torch.autograd.gradcheck(
        lambda q, x: attend(x, packed, 2, 0.5, again(), q), (queries, kv), fast_mode=True
    )


@pytest.mark.parametrize("step", ["a", "b"])
def test_published_encoder(step: str) -> None:
    given = {
        name: torch.from_numpy(np.asarray(value))
        for name, value in np.load(GOLDEN / f"mclrec_step_{step}.npz").items()
    }
    state = {
        name.removeprefix("model."): value
        for name, value in given.items()
        if name.startswith("model.")
    }
    weights = encoder_weights(state)
    encoder = Transformer(
        hidden_dim=state["item_embedding.weight"].shape[1],
        max_len=weights["position_embedding.weight"].shape[0],
        dropout=0.0,
        n_layers=1 + max(int(name.split(".")[1]) for name in weights if name.startswith("layers")),
        n_heads=int(given["n_heads"]),
        inner_dim=weights["layers.0.up.weight"].shape[0],
        attention_dropout=0.0,
    ).double()
    encoder.load_state_dict(weights)
    for rows, lengths, wanted in [
        ("item_seq", "item_len", "seq_output"),
        ("aug_seq1", "aug_len1", "z1"),
        ("aug_seq2", "aug_len2", "z2"),
    ]:
        got = encoder(
            Ragged.from_padded(given[rows], given[lengths]), state["item_embedding.weight"]
        )
        torch.testing.assert_close(got, given[wanted], rtol=1e-8, atol=1e-12)


# BSARec's filter: what it removes, what a place may know, and that padding does not matter


LIKE = torch.zeros((), dtype=torch.float64)


def encoder(causal: bool, device: torch.device | str = "cpu", **settings: object) -> BSA:
    torch.manual_seed(0)
    made = BSA(8, 12, 0.0, causal, 2, 2, 12, 0.0, **settings)
    return made.to(device).double().eval()


def table(device: torch.device | str = "cpu") -> Tensor:
    return torch.randn(30, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(
        device
    )


@pytest.mark.parametrize("max_len", [11, 12])
@pytest.mark.parametrize("c", [0, 5, 30])
def test_low_pass_is_the_published_transform(max_len: int, c: int, device: torch.device) -> None:
    x = torch.randn(max_len, 3, dtype=torch.float64, device=device)
    frequencies = torch.fft.rfft(x, dim=0, norm="ortho")
    frequencies[c // 2 + 1 :] = 0
    expected = torch.fft.irfft(frequencies, n=max_len, dim=0, norm="ortho")
    torch.testing.assert_close(low_pass(max_len, c, False, x) @ x, expected, rtol=1e-12, atol=1e-12)
    if c >= max_len:
        torch.testing.assert_close(expected, x)


def test_the_causal_filter_is_the_filter_of_each_prefix() -> None:
    x = torch.randn(12, 3, dtype=torch.float64)
    made = low_pass(12, 5, True, x) @ x
    for end in range(1, 13):
        prefix = x.clone()
        prefix[end:] = 0
        torch.testing.assert_close(
            made[end - 1], (low_pass(12, 5, False, x) @ prefix)[end - 1], rtol=1e-12, atol=1e-12
        )


def test_no_later_item_reaches_an_earlier_state_of_the_causal_filter(device: torch.device) -> None:
    items, made = [3, 8, 2, 9, 4, 7, 1], {}
    for causal in (True, False):
        changed = []
        for last in (5, 20):
            rows = Ragged.from_lists([[*items, last]], device)
            changed.append(encoder(causal, device)(rows, table(device), last_only=False).detach())
        made[causal] = (changed[0] - changed[1]).abs().amax(1)
    assert float(made[True][:-1].max()) == 0
    assert float(made[True][-1]) > 1e-3
    # the published filter shows an inner place what comes later: all but the last state are no
    # predictions
    assert float(made[False][:-1].min()) > 1e-6


def test_a_filter_made_under_inference_mode_is_none_to_train_with() -> None:
    made, rows = encoder(causal=False), Ragged.from_lists([[1, 2, 3], [4]])
    with accelerator_path():
        with torch.inference_mode():
            before = made(rows, table())
        after = made(rows, table())
        after.sum().backward()
    torch.testing.assert_close(before, after)


def test_positions_of_gated_layers_begin_as_wide_as_the_matrices_unless_set() -> None:
    for std, expected in ((None, math.sqrt(2 / (2000 + 16))), (0.02, 0.02)):
        encoder = narrow(GatedTransformer, max_len=2000, position_std=std)
        assert float(encoder.position_embedding.weight.detach().std()) == pytest.approx(
            expected, rel=0.03
        )
