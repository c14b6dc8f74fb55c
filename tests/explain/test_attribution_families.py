"""Attributions of models that are made of others, that read sets, or that read no history."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from attributed_models import GRAPHS, PATHS, histories, model_of, recommender_of, subject_of

import recgraph as rg
from recgraph.explain.attribution.methods import Attention, LeaveOneOut

ROWS = histories()
USER, TARGETS = 4, (1, 20)


@pytest.mark.parametrize("name", ["ease", "itemknn", "ials", "gfcf", "turbocf"])
def test_a_model_of_sets_gives_an_item_that_is_repeated_its_value_once(name: str) -> None:
    model = model_of(name, [sorted(set(row)) for row in ROWS], double=False)
    row = [1, 2, 3, 4]
    once = subject_of(model, [row], 0, TARGETS)
    twice = subject_of(model, [[4, 1, 3, *row]], 0, TARGETS)
    assert twice.items.tolist() == row
    assert twice.reading.n_unread == 0
    values = LeaveOneOut().attribute(once, torch.Generator())
    assert torch.equal(LeaveOneOut().attribute(twice, torch.Generator()), values)
    assert bool(values.any())


def test_what_ranks_alike_for_everyone_is_refused() -> None:
    model = model_of("popularity", ROWS, double=False)
    with pytest.raises(ValueError, match="Popularity ranks alike for everyone and reads no history"):
        rg.explain.attribute(recommender_of(model.eval(), ROWS), "u4")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("ials", {}),
        ("simplex", {"hidden_dim": 8}),
        ("hstu", {"hidden_dim": 8, "max_len": 6, "encoder_options": {"time_bias": True}}),
    ],
)
def test_without_methods_vectors_that_are_not_read_have_no_gradients(name: str, settings: dict[str, Any]) -> None:
    model = model_of(name, ROWS, double=False, **settings).eval()
    assert model.has_vectors
    (why,) = rg.explain.attribute(recommender_of(model, ROWS), "u4", k=1)
    assert [one.method for one in why.methods] == ["leave_one_out"]


def test_a_sequence_with_a_graph_of_items_attends_to_its_items() -> None:
    """Its meta-paths lead between items, not from the user."""
    options = {"metapaths": ("item-user-item",)}
    sizes = {"hidden_dim": 8, "max_len": 6, "n_layers": 1, "inner_dim": 16}
    model = model_of("sasrec", ROWS, item_graph="meta_paths", item_graph_options=options, **sizes).eval()
    assert model.path_weights()
    subject = subject_of(model, ROWS, USER, TARGETS)
    found = Attention().attribute(subject, torch.Generator())
    assert found.sum(1).tolist() == pytest.approx([1, 1])
    with torch.no_grad():
        assert torch.allclose(found[0], subject.reading.attention("rollout"))


def test_meta_paths_that_take_no_part_in_the_scores_are_no_attention() -> None:
    model = model_of("meowrec", ROWS, **{**PATHS, "recommend_by": "interactions"}).eval()
    with pytest.raises(ValueError, match="MEOWRec has no attention over the history; use leave_one_out or reagent"):
        Attention().attribute(subject_of(model, ROWS, USER, TARGETS), torch.Generator())
    assert (
        Attention()
        .attribute(subject_of(model_of("meowrec", ROWS, **GRAPHS["meowrec"]), ROWS, USER), torch.Generator())
        .any()
    )
