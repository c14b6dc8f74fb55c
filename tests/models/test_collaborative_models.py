"""Models of users and items by index: losses, unknown users, kept vectors, views, and learning a
planted structure.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from collaborative_cases import CONTRASTIVE, NAMES, SPACE, first_batch, made, planted

from recgraph.data.batches import Query
from recgraph.data.part import Cases, Part
from recgraph.evaluate.evaluator import evaluate
from recgraph.losses.pairwise import PairWeights
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged
from recgraph.train.config import TrainConfig
from recgraph.train.trainer import Trainer


def query(users: list[int], histories: list[list[int]]) -> Query:
    return Query(torch.tensor(users), Ragged.from_lists(histories))


# --- learning


@pytest.mark.parametrize("name", NAMES)
def test_learns_a_planted_structure(name: str) -> None:
    train, cases = planted()
    # where the few users of a group are negatives of each other, a strong contrast outweighs what
    # they have in common; so do many negatives of great weight, which the group's other items are
    # among
    few = {"n_negatives": 4, "negative_weight": 2.0}
    own = {"simplex": {"loss": few | {"margin": 0.3}}}
    own["ultragcn"] = {"loss": few, "neighbour_weight": 1.0}
    model = made(name, **({"contrast_weight": 0.02} if name in CONTRASTIVE else own.get(name, {})))
    generators = Generators(0)
    config = TrainConfig(
        batch_size=32, learning_rate=0.05, max_epochs=10, metric="loss", patience=None
    )
    Trainer(model, model.batches(train, 32, generators), config, generators).fit()
    result = evaluate(model, cases, seen=("exclude",), cutoffs=(4,))[0].metrics
    # of 24 unseen items 4 are the user's group's: by chance a sixth of the truth is in the first
    # four
    assert result["recall@4"] > 0.9
    strangers = Cases(torch.full_like(cases.users, -1), cases.history, cases.truth, cases.n_items)
    assert evaluate(model, strangers, seen=("exclude",), cutoffs=(4,))[0].metrics["recall@4"] > 0.9


# --- terms


@pytest.mark.parametrize("name", ["bprmf", "lightgcn"])
@pytest.mark.parametrize("k", [1, 3])
def test_bpr_and_l2_equal_lookups_under_autograd(name: str, k: int) -> None:
    model = made(name, loss={"n_negatives": k, "popularity_power": 0.5}).double()
    batch = first_batch(model)
    table = model.embedding.weight
    users, items = torch.split(model.nodes(), [SPACE.n_users, SPACE.n_items])
    positive = (users[batch.users] * items[batch.items]).sum(1)
    negative = (users[batch.users][:, None] * items[batch.negatives]).sum(2)
    own = [
        table[batch.users],
        table[SPACE.n_users + batch.items],
        table[SPACE.n_users + batch.negatives].flatten(0, 1),
    ]
    expected = {
        "rec": F.softplus(negative - positive[:, None]).mean(),
        "l2": sum(part.square().sum(1).mean() for part in own) / 2,
    }
    for term, value in model(batch, ["rec", "l2"]).items():
        torch.testing.assert_close(value, expected[term], rtol=1e-12, atol=1e-12)
        (grad,) = torch.autograd.grad(value, table)
        (expected_grad,) = torch.autograd.grad(expected[term], table, retain_graph=True)
        torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-14)


def test_softmax_over_all_items_has_no_padding() -> None:
    model = made("lightgcn", loss="full_softmax").double()
    batch = first_batch(model)
    assert batch.negatives.shape == (32, 0)
    users, items = torch.split(model.nodes(), [SPACE.n_users, SPACE.n_items])
    expected = F.cross_entropy(users[batch.users] @ items.T, batch.items)
    torch.testing.assert_close(model(batch, ["rec"])["rec"], expected)


# --- ranking


# which reads every history
@pytest.mark.parametrize("name", [name for name in NAMES if name != "simplex"])
def test_unknown_users_are_the_mean_of_their_items(name: str) -> None:
    model = made(name)
    rows = planted()[0].items.to_lists()
    rows[3] = []
    model.setup(Part(Ragged.from_lists(rows), SPACE.n_items))
    model.eval()
    items = model.encode_items()
    found = model.encode_users(query([-1, 3, 0, -1], [[4, 9], [7], [7], []]))
    users = torch.split(model.nodes(), [SPACE.n_users, SPACE.n_items])[0].detach()
    torch.testing.assert_close(found[0], items[[4, 9]].mean(0))
    # a user without a training interaction has no trained vector
    torch.testing.assert_close(found[1], items[7])
    torch.testing.assert_close(found[2], users[0])
    trained = [user for user in range(SPACE.n_users) if user != 3]
    torch.testing.assert_close(found[3], users[trained].mean(0))


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_kept_in_evaluation_and_follow_the_weights(name: str) -> None:
    model = made(name)
    model.setup(planted()[0])
    model.eval()
    with torch.inference_mode():
        kept = model.encode_items()
    with torch.no_grad():
        assert kept.data_ptr() == model.encode_items().data_ptr()
        before = kept.clone()
        model.embedding.weight.copy_(model.embedding.weight.flip(0))
        after = model.encode_items().clone()
        assert not torch.allclose(after, before)
        torch.testing.assert_close(after, model.loss.as_scored(model.nodes()[SPACE.n_users :]))
        model.load_state_dict(made(name, seed=9).state_dict() | {"known_users": model.known_users})
        assert not torch.allclose(model.encode_items(), after)
    model.train()
    assert model._made._kept is None
    assert model.encode_items().requires_grad
    first_batch(model)
    model(first_batch(model), ["rec"])["rec"].backward()


def test_a_model_that_was_built_under_inference_mode_ranks() -> None:
    expected = made("lightgcn").eval()
    with torch.inference_mode():
        model = made("lightgcn").eval()
        torch.testing.assert_close(model.encode_items(), expected.encode_items())
    with torch.inference_mode():
        kept = expected.encode_items()
    assert not kept.is_inference()


# Models of users and items whose samples share the negatives of a step


EXACT = {"rtol": 1e-11, "atol": 1e-12}


@pytest.mark.parametrize("n_groups", [1, 3])
@pytest.mark.parametrize("exclude_own", [False, True])
@pytest.mark.parametrize(
    ("model", "loss"),
    [
        ("bprmf", "bpr"),
        ("bprmf", "ccl"),
        ("lightgcn", "bce"),
        ("simplex", "ccl"),
        ("ultragcn", "bce"),
    ],
)
def test_models_of_pairs_leave_out_a_users_own_items(
    model: str, loss: str, exclude_own: bool, n_groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The term is that of negatives of its own for each sample, where those that are excluded are
    the sample's item; with ``exclude_own`` the others count as all."""
    options, plain = (
        {"name": loss, "n_negatives": 12},
        {"dropout": 0.0} if model == "simplex" else {},
    )
    shared = {**options, "shared": True, "n_groups": n_groups}
    ours = made(model, loss=shared, exclude_own=exclude_own, **plain).double()
    batch = first_batch(ours)
    assert batch.negatives.shape == (n_groups, 12)
    of_samples = batch.of_samples(batch.negatives).expand(len(batch.items), -1)
    assert batch.excluded is not None
    histories = [set(row) for row in planted()[0].items.to_lists()]
    mask = batch.negative_mask()
    for row, user in enumerate(batch.users.tolist()):
        barred = histories[user] if exclude_own else {int(batch.items[row])}
        assert mask[row].tolist() == [item not in barred for item in of_samples[row].tolist()]
    own = made(model, loss=options, **plain).double()
    own.load_state_dict(ours.state_dict())
    first_batch(own)
    # what is excluded is said as it is there: by the sample's own item
    negatives = torch.where(mask, of_samples, batch.items[:, None])
    if exclude_own and own.loss.weighs_pairs:
        scale, given = 12 / mask.sum(1).double(), own.pair_weights(batch)
        of_pairs = (torch.ones(32), torch.ones(32, 12)) if given is None else given
        weights = PairWeights(of_pairs[0].double(), of_pairs[1].double() * scale[:, None])
        monkeypatch.setattr(own, "pair_weights", lambda _: weights)
    expected = own(replace(batch, negatives=negatives, excluded=None, bounds=None), ["rec"])["rec"]
    value = ours(batch, ["rec"])["rec"]
    torch.testing.assert_close(value, expected, **EXACT)
    parameters = [one for one in ours.parameters() if one.requires_grad]
    theirs = [one for one in own.parameters() if one.requires_grad]
    for got, want in zip(
        torch.autograd.grad(value, parameters), torch.autograd.grad(expected, theirs), strict=True
    ):
        torch.testing.assert_close(got, want, **EXACT)
