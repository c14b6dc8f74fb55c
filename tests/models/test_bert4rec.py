"""BERT4Rec: its samples, its loss and scores against dense padded attention, and the whole way to
served lists.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from small_settings import with_small
from torch import Tensor

import recgraph as rg
from recgraph.data.batches import ClozeBatches, Query, draw_masks
from recgraph.data.part import Part
from recgraph.models.base import Space
from recgraph.models.sequence.base import SequenceModel
from recgraph.rng import Generators
from recgraph.sparse.device import accelerator_path
from recgraph.sparse.ragged import Ragged

N_ITEMS = 20
NARROW = {"encoder.inner_dim": 12, "encoder.attention_dropout": 0.0}
SMALL: dict[str, Any] = {"hidden_dim": 8, "max_len": 6, "dropout": 0.0, **NARROW}


def random_train(n: int = 30, longest: int = 12) -> Part:
    draw = torch.Generator().manual_seed(2)
    lengths = torch.randint(0, longest + 1, (n,), generator=draw)
    return Part(
        Ragged.from_lengths(torch.randint(N_ITEMS, (int(lengths.sum()),), generator=draw), lengths),
        N_ITEMS,
    )


def built(cls: type[SequenceModel] = rg.models.BERT4Rec, **settings: Any) -> SequenceModel:
    """A model in float64 whose weights are large enough for attention to differ from a mean."""
    model = (
        cls(**with_small(cls, SMALL, settings))
        .build(Space(n_users=30, n_items=N_ITEMS), seed=3)
        .double()
    )
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw, dtype=torch.float64) * 0.3)
    return model


# --- the oracle: one padded batch, dense attention, one head at a time


def norm(layer: Any, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return (
        centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-12).sqrt() * layer.weight + layer.bias
    )


def oracle_states(model: Any, rows: list[list[int]], kept: list[Tensor] | None = None) -> Tensor:
    """[B, L, D] of rows of tokens, 0 the mask; ``kept`` gets the weights [B, L, L] of each head and
    layer.
    """
    encoder, table = model.encoder, model.item_embedding.weight
    length = max(map(len, rows))
    there = torch.tensor([[place < len(row) for place in range(length)] for row in rows])
    tokens = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    x = norm(encoder.norm, table[tokens] + encoder.position_embedding.weight[:length])
    for layer in encoder.layers:
        queries, keys, values = (x @ layer.qkv.weight.T + layer.qkv.bias).chunk(3, -1)
        width = x.shape[-1] // layer.n_heads
        heads = []
        for head in range(layer.n_heads):
            own = slice(head * width, (head + 1) * width)
            scores = queries[..., own] @ keys[..., own].transpose(1, 2) / math.sqrt(width)
            weights = (scores.exp() * there[:, None]) / (scores.exp() * there[:, None]).sum(
                -1, keepdim=True
            )
            heads.append(weights @ values[..., own])
            if kept is not None:
                kept.append(weights)
        x = norm(
            layer.attention_norm, x + torch.cat(heads, -1) @ layer.out.weight.T + layer.out.bias
        )
        inner = F.gelu(x @ layer.up.weight.T + layer.up.bias)
        x = norm(layer.norm, x + inner @ layer.down.weight.T + layer.down.bias)
    return norm(encoder.head_norm, F.gelu(x @ encoder.head.weight.T + encoder.head.bias))


def oracle_loss(model: Any, batch: Any) -> Tensor:
    """Cross-entropy over all tokens at the masked places, one by one."""
    rows, table = batch.sequences.to_lists(), model.item_embedding.weight
    states, losses = oracle_states(model, rows), []
    targets = iter(batch.targets.tolist())
    for row, tokens in enumerate(rows):
        for place, token in enumerate(tokens):
            if token == 0:
                scores = table @ states[row, place]
                losses.append(scores.exp().sum().log() - scores[next(targets)])
    assert next(targets, None) is None
    return torch.stack(losses).mean()


@pytest.mark.parametrize("path", ["host", "accelerator"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mask_ratio": 0.6, "last_share": 0.5, "window_step": None},
        {"encoder": {"n_heads": 4, "n_layers": 3}},
    ],
)
def test_the_loss_and_its_gradient_are_those_of_dense_attention(
    settings: dict[str, Any], path: str
) -> None:
    model = built(**settings)
    (batch,) = model.batches(random_train(), 100, Generators(0)).epoch(0)
    parameters = dict(model.named_parameters())

    def of(loss: Tensor) -> tuple[Tensor, ...]:
        return loss, *torch.autograd.grad(loss, list(parameters.values()))

    expected = of(oracle_loss(model, batch))
    if path == "host":
        found = of(model(batch, ("rec",))["rec"])
    else:
        with accelerator_path():
            found = of(model(batch, ("rec",))["rec"])
    for name, one, other in zip(("loss", *parameters), found, expected, strict=True):
        torch.testing.assert_close(
            one, other, rtol=1e-10, atol=1e-12, msg=lambda told, name=name: f"{name}: {told}"
        )
    of_mask = expected[1 + [*parameters].index("item_embedding.weight")][0]
    assert bool(of_mask.any()), "the mask's vector is learned"


@pytest.mark.parametrize("path", ["host", "accelerator"])
def test_scores_are_those_of_the_history_with_the_mask_behind_it(path: str) -> None:
    model = built().eval()
    rows = [[3], [], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], [19, 0], [5, 5, 8, 5]]
    query = Query(torch.full((len(rows),), -1), Ragged.from_lists(rows))
    with torch.no_grad():
        if path == "host":
            found = model.score(query)
        else:
            with accelerator_path():
                found = model.score(query)
        for row, items in enumerate(rows):
            tokens = [item + 1 for item in items[-6:]] + [0]
            state = oracle_states(model, [tokens])[0, -1]
            torch.testing.assert_close(
                found[row], model.item_embedding.weight[1:] @ state, rtol=1e-11, atol=1e-12
            )


def test_views_of_contrastive_models_are_read_by_a_mask_behind_them() -> None:
    settings = {
        "encoder": "bidirectional_transformer",
        "regime": "prefix",
        "augmentations": ("mask", "crop"),
    }
    for cls, more in ((rg.models.CL4SRec, {}), (rg.models.MCLRec, {"augmenter": "attention"})):
        model = built(cls, **settings, **more)
        batch = next(iter(model.batches(random_train(), 16, Generators(0)).epoch(0)))
        for needs_states in (False, True):
            model.needs_states = needs_states  # type: ignore[attr-defined]
            for view, encoded in zip(
                model.draw_views(batch),  # type: ignore[attr-defined]
                model.encode_together(model.draw_views(batch), batch),  # type: ignore[attr-defined]
                strict=True,
            ):
                states = oracle_states(model, [[*row, 0] for row in view.to_lists()])
                wanted = states[torch.arange(len(states)), view.lengths]
                torch.testing.assert_close(encoded.last, wanted, rtol=1e-10, atol=1e-12)


# --- samples


def batches(train: Part | None = None, seed: int = 1, **settings: Any) -> ClozeBatches:
    given = {"mask_ratio": 0.4, "last_share": 0.0, **settings}
    return ClozeBatches(
        train or random_train(), batch_size=8, max_len=6, generators=Generators(seed), **given
    )


def test_samples_are_the_last_items_of_each_user_some_of_them_masked() -> None:
    rows, users = random_train().items.to_lists(), []
    for batch in batches().epoch(0):
        targets = iter(batch.targets.tolist())
        assert batch.masked is not None
        assert torch.equal(batch.masked.values, (batch.sequences.values == 0).nonzero().squeeze(1))
        for user, read, contrast, follows in zip(
            batch.users.tolist(),
            batch.sequences.to_lists(),
            batch.contrast.to_lists(),
            batch.contrast_targets.tolist(),
            strict=True,
        ):
            tokens = [item + 1 for item in rows[user]][-7:]
            n_masked = read.count(0)
            assert n_masked == min(max(round(0.4 * len(tokens)), 1), len(tokens) - 1)
            assert [token or next(targets) for token in read] == tokens
            assert [*contrast, follows] == tokens
            users.append(user)
        assert next(targets, None) is None
        assert batch.n_targets == len(batch.targets)
    assert sorted(users) == [user for user, row in enumerate(rows) if len(row) > 1]


def test_of_a_share_of_the_samples_the_last_item_alone_is_masked() -> None:
    masks = draw_masks(torch.full((4000,), 6), 0.5, 0.25, torch.Generator().manual_seed(0))
    drawn = Counter(tuple(row) for row in masks.values.view(-1, 6).tolist())
    last = (False,) * 5 + (True,)
    assert 900 < drawn[last] < 1100
    assert all(sum(row) == 3 for row in drawn if row != last)
    alone = draw_masks(torch.full((50,), 6), 0.5, 1.0, torch.Generator())
    assert alone.to_lists() == [list(last)] * 50


@pytest.mark.parametrize("step", [1, 3, 7, 50])
def test_windows_cover_a_long_history_from_its_end_on(step: int) -> None:
    train = random_train(longest=30)
    found: dict[int, list[list[int]]] = {}
    for batch in batches(train, window_step=step).epoch(0):
        whole = batch.sequences.values.clone()
        assert batch.masked is not None
        whole[batch.masked.values] = batch.targets
        for user, row in zip(
            batch.users.tolist(), batch.sequences.with_values(whole).to_lists(), strict=True
        ):
            found.setdefault(user, []).append(row)
    for user, items in enumerate(train.items.to_lists()):
        tokens = [item + 1 for item in items]
        if len(tokens) < 2:
            assert user not in found
            continue
        # as in the published code
        begins = [*range(len(tokens) - 7, 0, -step), 0] if len(tokens) > 7 else [0]
        assert sorted(found[user]) == sorted(tokens[begin : begin + 7] for begin in begins)
