"""Sequence models: the two regimes, the phases, agreement with the published code, every
combination of parts.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from refusing import refused
from small_settings import with_small
from torch import Tensor

from recgraph import registry
from recgraph.contrast.clustering import kmeans
from recgraph.data.batches import Query, SequenceBatches, WholeBatch
from recgraph.data.part import Part
from recgraph.models.base import Space
from recgraph.models.sequence.base import SequenceModel
from recgraph.models.sequence.contrastive import CL4SRec, DuoRec
from recgraph.models.sequence.mclrec import MCLRec
from recgraph.models.sequence.sasrec import SASRec
from recgraph.ranks import Share
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged
from recgraph.train.config import TrainConfig, make_accelerator
from recgraph.train.phases import freeze_all_but, total_loss
from recgraph.train.trainer import Trainer

N_ITEMS = 25
SMALL = {"hidden_dim": 8, "encoder.inner_dim": 12, "max_len": 10}
NO_DROPOUT = {"dropout": 0.0, "encoder.attention_dropout": 0.0}


def random_train(longest: int = 11, n_users: int = 30) -> Part:
    generator = torch.Generator().manual_seed(5)
    lengths = torch.randint(0, longest + 1, (n_users,), generator=generator)
    values = torch.randint(0, N_ITEMS, (int(lengths.sum()),), generator=generator)
    return Part(Ragged.from_lengths(values, lengths), N_ITEMS, ratings=values % 5 + 1.0)


def built(
    cls: type[SequenceModel], device: torch.device | str = "cpu", **settings: object
) -> SequenceModel:
    model = cls(**with_small(cls, SMALL, settings)).build(
        Space(n_users=30, n_items=N_ITEMS), seed=3
    )
    return model.to(device).double()


def whole_epoch_gradient(
    model: SequenceModel, train: Part, device: torch.device
) -> tuple[Tensor, list[Tensor]]:
    batches = model.batches(train, 10_000, Generators(0, device))
    (batch,) = batches.epoch(0)
    loss = model(batch.to(device), ("rec",))["rec"]
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


def test_the_two_regimes_give_the_same_loss_and_gradient(device: torch.device) -> None:
    train = random_train()
    prefix = whole_epoch_gradient(
        built(SASRec, device, regime="prefix", **NO_DROPOUT), train, device
    )
    causal = whole_epoch_gradient(
        built(SASRec, device, regime="causal", **NO_DROPOUT), train, device
    )
    torch.testing.assert_close(prefix[0], causal[0], rtol=1e-12, atol=0)
    for of_prefix, of_causal in zip(prefix[1], causal[1], strict=True):
        torch.testing.assert_close(of_prefix, of_causal, rtol=1e-9, atol=1e-13)


def test_prefix_samples_are_every_prefix_with_its_next_item() -> None:
    train = random_train(longest=15)
    batches = SequenceBatches(train, "prefix", batch_size=7, max_len=10, generators=Generators(0))
    seen = sorted(
        (int(user), tuple(row), int(target))
        for batch in batches.epoch(0)
        for user, row, target in zip(
            batch.users, batch.sequences.to_lists(), batch.targets, strict=True
        )
    )
    rows = train.items.to_lists()
    expected = sorted(
        (user, tuple(item + 1 for item in row[max(0, end - 10) : end]), row[end] + 1)
        for user, row in enumerate(rows)
        for end in range(1, len(row))
    )
    assert seen == expected
    assert len(batches.sample_rows) == len(expected)


def test_causal_samples_are_the_last_items_with_a_target_each() -> None:
    train = random_train(longest=15)
    batches = SequenceBatches(train, "causal", batch_size=7, max_len=10, generators=Generators(0))
    rows = train.items.to_lists()
    users = []
    for batch in batches.epoch(0):
        targets = batch.sequences.with_values(batch.targets).to_lists()
        for user, inputs, wanted, contrast, follows in zip(
            batch.users.tolist(),
            batch.sequences.to_lists(),
            targets,
            batch.contrast.to_lists(),
            batch.contrast_targets.tolist(),
            strict=True,
        ):
            tokens = [item + 1 for item in rows[user]][-11:]
            assert (inputs, wanted) == (tokens[:-1], tokens[1:])
            assert contrast == inputs[: len(contrast)]
            assert contrast
            assert follows == tokens[len(contrast)]
            users.append(user)
    assert sorted(users) == [user for user, row in enumerate(rows) if len(row) > 1]


@pytest.mark.parametrize("regime", ["prefix", "causal"])
def test_a_partner_is_another_sequence_of_the_same_target_and_all_are_equally_likely(
    regime: str,
) -> None:
    """Item 9 follows three prefixes, item 8 one: its partner is the anchor itself."""
    train = Part(Ragged.from_lists([[1, 9], [2, 9], [3, 9], [4, 8]]), N_ITEMS)
    batches = SequenceBatches(
        train, regime, batch_size=4, max_len=5, generators=Generators(0), partners=True
    )
    drawn: Counter[tuple[int, int]] = Counter()
    for number in range(60):
        for batch in batches.epoch(number):
            drawn.update(
                zip(batch.contrast.values.tolist(), batch.partners.values.tolist(), strict=True)
            )
    pairs = [(a, b) for a in (2, 3, 4) for b in (2, 3, 4) if a != b]
    assert drawn.keys() == {*pairs, (5, 5)}
    assert drawn[5, 5] == 60
    assert all(15 < drawn[pair] < 45 for pair in pairs)


@pytest.mark.parametrize("regime", ["prefix", "causal"])
@pytest.mark.parametrize("unsupervised_weight", [0.0, 0.3])
def test_duorec_as_published(regime: str, unsupervised_weight: float) -> None:
    """``us_x``: the twin of dropout against its partner, all rows but itself as candidates, written
    out.
    """
    model = DuoRec(
        **with_small(
            DuoRec,
            {**SMALL, **NO_DROPOUT},
            {"regime": regime, "unsupervised_weight": unsupervised_weight},
        )
    )
    model.build(Space(n_users=30, n_items=N_ITEMS), seed=3).double()
    batch = next(iter(model.batches(random_train(), 16, Generators(0)).epoch(0)))
    terms = model(batch, [*model.phases[0].terms])
    assert set(terms) == {"rec", "sup"} | ({"cl1"} if unsupervised_weight else set())

    def nt_xent(a: Tensor, b: Tensor) -> Tensor:
        z, n = torch.cat([a, b]), len(a)
        losses = []
        for row in range(2 * n):
            others = [j for j in range(2 * n) if j != row]
            losses.append(torch.logsumexp(z[others] @ z[row], 0) - z[(row + n) % (2 * n)] @ z[row])
        return torch.stack(losses).mean()

    twin, partner = (model.encode(rows, batch) for rows in (batch.contrast, batch.partners))
    torch.testing.assert_close(terms["sup"], nt_xent(twin, partner))
    if unsupervised_weight:
        torch.testing.assert_close(terms["cl1"], nt_xent(twin, twin))


@pytest.mark.parametrize("model", ["cl4srec", "duorec", "mclrec"])
def test_intents_are_the_clusters_of_the_users_at_the_first_step_of_an_epoch(model: str) -> None:
    """A view at a time; the centroids stay as they are within the epoch."""
    contrast = {"similarity": "cosine", "temperature": 0.5}
    given = {"intent_weight": 0.1, "n_intents": 4, "contrast": contrast, **NO_DROPOUT}
    made, train = built(registry.load("model", model), **given), random_train()
    assert made.phases[0].terms["intent"] == 0.1
    batches = made.batches(train, 8, Generators(0))
    (first, second), (later,) = (list(batches.epoch(epoch))[: 2 - epoch] for epoch in (0, 1))
    with torch.no_grad():
        states = made.eval().encode_users(Query(torch.arange(30), train.items))
    directions = states / states.norm(dim=1, keepdim=True)
    centroids = kmeans(directions, 4, restarts=1).centroids
    made.train()
    for batch in (first, second):
        views = [view.last for view in made.encode_together(made.draw_views(batch), batch)[:2]]
        losses = []
        for rows in views:
            c = torch.nn.functional.cosine_similarity(rows[:, None], centroids[None], dim=2) / 0.5
            losses.append((c.logsumexp(1) - c.max(1).values).mean())
        found = made(batch, ("intent",))["intent"]
        torch.testing.assert_close(found, sum(losses), rtol=1e-9, atol=1e-12)
        assert found.requires_grad
        assert made.training
        with torch.no_grad():  # a step in between
            for parameter in made.parameters():
                parameter.add_(
                    torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)),
                    alpha=0.1,
                )
    before = made.intents.directions_0.clone()
    made(later, ("intent",))
    assert not torch.equal(before, made.intents.directions_0)


def test_a_rank_that_contrasts_its_own_rows_has_all_of_them_as_anchors() -> None:
    made, train = built(CL4SRec, gather_negatives=False, **NO_DROPOUT), random_train()
    batches = made.batches(train, 9, Generators(0))
    batch = next(iter(batches.epoch(0)))
    share, places = Share((4, 5), 1), torch.arange(4, 9)
    whole = WholeBatch(batch.sequences.lengths, batch.n_targets, batch.contrast)
    batch = replace(batch, contrast=batch.contrast.take(places), share=share, whole=whole)
    found = made(batch, ("cl1",))["cl1"]
    one, two = (view.last for view in made.encode_together(made.draw_views(batch), batch))
    assert len(one) == len(places)
    expected = made.contrast(one, two) * share.weight
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("schedule", ["published", "paper", "joint"])
def test_mclrec_freezes_what_a_phase_does_not_train(schedule: str, device: torch.device) -> None:
    model = built(
        MCLRec,
        device,
        schedule_of_phases=schedule,
        margin_form="paper" if schedule == "paper" else "published",
    )
    assert [phase.name for phase in model.phases] == {
        "published": ["encoder", "augmenters", "encoder"],
        "paper": ["encoder", "augmenters"],
        "joint": ["joint"],
    }[schedule]
    groups = model.parameter_groups()
    batches = model.batches(random_train(), 16, Generators(0, device))
    batch = next(iter(batches.epoch(0))).to(device)
    drawn = None
    for phase in model.phases:
        model.zero_grad(set_to_none=True)
        with freeze_all_but(groups, phase.groups):
            total_loss(model(batch, tuple(phase.terms)), phase).backward()
        for name, parameters in groups.items():
            has = [parameter.grad is not None for parameter in parameters]
            assert all(has) if name in phase.groups else not any(has)
        drawn = drawn or batch.drawn["views"]
        assert batch.drawn["views"] is drawn, "the phases of a batch share its views"


@pytest.mark.parametrize("loss", registry.names("loss"))
@pytest.mark.parametrize("name", ["sasrec", "gru4rec"])
def test_every_loss_learns_a_planted_order(loss: str, name: str) -> None:
    """Each item is followed by the next one: after a few steps it is among the first 5 of 25 (by
    chance: .2).
    """
    from recgraph.data.batches import Query

    few: dict[str, int] = {} if loss == "fullsoftmax" else {"n_negatives": 8}
    rows = [[(start + step) % N_ITEMS for step in range(8)] for start in range(N_ITEMS)]
    train = Part(Ragged.from_lists(rows), N_ITEMS)
    model = registry.load("model", name)(
        hidden_dim=32, loss={"name": loss, **few}, dropout=0.0, max_len=8
    )
    model.build(Space(n_users=N_ITEMS, n_items=N_ITEMS), seed=0)
    generators = Generators(0)
    # losses of single items begin slowly
    epochs = {"bce": 200, "ccl": 120}.get(loss, 40)
    config = TrainConfig.of(metric="loss", max_epochs=epochs, patience=None, learning_rate=0.01)
    Trainer(
        model,
        model.batches(train, 25, generators),
        config,
        generators,
        accelerator=make_accelerator("cpu"),
    ).fit()
    model.eval()
    with torch.no_grad():
        scores = model.score(
            Query(torch.arange(N_ITEMS), Ragged.from_lists([[item] for item in range(N_ITEMS)]))
        )
    following = (torch.arange(N_ITEMS) + 1) % N_ITEMS
    right = (scores.topk(5).indices == following[:, None]).any(1)
    assert right.float().mean() >= 0.9


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "experiments" / "reference.py"
    spec = importlib.util.spec_from_file_location("reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mclrec_agrees_with_the_published_steps(reference: ModuleType) -> None:
    for line in reference.mclrec_steps():
        assert line["worst_relative_error"] <= 1e-8, line


def test_published_beauty_weights_give_the_published_rows(
    reference: ModuleType, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reference, "SHARED", shared)
    lines = list(reference.beauty_weights())
    assert len(lines) == 3
    for line in lines:
        assert line["ok"], line


def test_an_augmenter_of_one_batch_size_trains_on_full_batches_alone() -> None:
    model = built(MCLRec, augmenter={"name": "conv", "variant": "published"})
    batches = model.batches(random_train(), SMALL["hidden_dim"], Generators(0))
    every = list(batches.epoch(0))
    assert len(every) == len(batches) > 1
    assert {len(batch.users) for batch in every} == {SMALL["hidden_dim"]}
    with refused("drop_last"):
        model.batches(random_train(), 1000, Generators(0))
