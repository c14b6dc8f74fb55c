"""Models of users and items whose samples share the negatives of a step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from collaborative_cases import first_batch, made, planted

from recgraph.losses.pairwise import PairWeights

EXACT = {"rtol": 1e-11, "atol": 1e-12}


@pytest.mark.parametrize("n_groups", [1, 3])
@pytest.mark.parametrize("exclude_own", [False, True])
@pytest.mark.parametrize(
    ("model", "loss"),
    [("bprmf", "bpr"), ("bprmf", "ccl"), ("lightgcn", "bce"), ("simplex", "ccl"), ("ultragcn", "bce")],
)
def test_models_of_pairs_leave_out_a_users_own_items(
    model: str, loss: str, exclude_own: bool, n_groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The term is that of negatives of its own for each sample, where those that are excluded are the sample's item;
    with ``exclude_own`` the others count as all."""
    options = {"name": loss, "n_negatives": 12}
    if model == "simplex":
        options["dropout"] = 0.0
    ours = made(model, loss={**options, "shared": True, "n_groups": n_groups}, exclude_own=exclude_own).double()
    batch = first_batch(ours)
    assert batch.negatives.shape == (n_groups, 12)
    of_samples = batch.of_samples(batch.negatives).expand(len(batch.items), -1)
    assert batch.excluded is not None
    histories = [set(row) for row in planted()[0].items.to_lists()]
    mask = batch.negative_mask()
    for row, user in enumerate(batch.users.tolist()):
        barred = histories[user] if exclude_own else {int(batch.items[row])}
        assert mask[row].tolist() == [item not in barred for item in of_samples[row].tolist()]
    own = made(model, **options).double()
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
    for got, want in zip(torch.autograd.grad(value, parameters), torch.autograd.grad(expected, theirs), strict=True):
        torch.testing.assert_close(got, want, **EXACT)
