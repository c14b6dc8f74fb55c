"""What every attribution keeps, on every kind of model that reads a history."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest
import torch
from attributed_models import GRAPHS, SEQUENCES, histories, model_of, query_of, recommender_of, subject_of

import recgraph as rg
from recgraph import registry
from recgraph.explain.attribution import subject as subjects
from recgraph.explain.attribution.base import Attribution
from recgraph.models.base import Model

ROWS = histories()
MODELS = {**SEQUENCES, **GRAPHS}
#: methods that a model refuses, and the reason that it gives
REFUSED = {("gru4rec", "attention"): "GRU has no attention", ("lightgcn", "attention"): "LightGCN has no attention"}
CASES = [
    (name, method) for name in MODELS for method in registry.written("attribution") if (name, method) not in REFUSED
]
QUICK = {
    "reagent": {"round_size": 4, "max_rounds": 2, "n_kept": 2, "top_k": 3, "n_similar": 5},
    "integrated_gradients": {"steps": 4},
}


def make(method: str) -> Attribution:
    made: Attribution = registry.make("attribution", {"name": method, **QUICK.get(method, {})})
    return made


def attributed(model: Model, method: str, user: int, rows: Any = ROWS, **settings: Any) -> torch.Tensor:
    subject = subject_of(model, rows, user, **settings)
    return make(method).attribute(subject, torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def models() -> dict[str, Model]:
    return {name: model_of(name, ROWS, **settings) for name, settings in MODELS.items()}


@pytest.mark.parametrize(("name", "method"), CASES)
def test_shape_mode_gradients_and_weights(models: dict[str, Model], name: str, method: str) -> None:
    model = models[name]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    values = attributed(model, method, 4)
    assert values.shape == (2, subject_of(model, ROWS, 4).n_events)
    assert bool(values.isfinite().all())
    assert not values.requires_grad
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    if not make(method).signed:
        assert float(values.min()) >= 0
        assert float(values.sum(1).max()) <= 1 + 1e-9


@pytest.mark.parametrize(("name", "method"), CASES)
def test_the_same_by_any_block_and_the_same_generator(models: dict[str, Model], name: str, method: str) -> None:
    torch.manual_seed(1)
    first = attributed(models[name], method, 4)
    torch.manual_seed(2)
    assert torch.allclose(attributed(models[name], method, 4, block_rows=3), first, atol=1e-9)
    if method != "reagent":  # it draws for one target after the other
        alone = make(method).attribute(subject_of(models[name], ROWS, 4, [20]), torch.Generator())
        assert torch.allclose(alone, first[1:], atol=1e-9)


@pytest.mark.parametrize(("name", "method"), CASES)
def test_a_history_of_one_event(models: dict[str, Model], name: str, method: str) -> None:
    values = attributed(models[name], method, len(ROWS) - 1)
    assert values.shape == (2, 1)
    assert bool(values.isfinite().all())
    if method == "leave_one_out":
        subject = subject_of(models[name], ROWS, len(ROWS) - 1)
        empty = subject.values(torch.zeros(1, 1, dtype=torch.bool))[0]
        assert torch.allclose(values[:, 0], subject.full - empty)


@pytest.mark.parametrize("method", registry.written("attribution"))
def test_repeated_items_are_events_of_a_sequence_and_one_edge_of_a_graph(method: str) -> None:
    rows = [[5, 6, 5, 7], *ROWS[1:]]
    assert attributed(model_of("sasrec", rows, **SEQUENCES["sasrec"]), method, 0, rows).shape == (2, 4)
    graph = model_of("meowrec", rows, **GRAPHS["meowrec"])
    assert attributed(graph, method, 0, rows).shape == (2, 3)
    # the last occurrence is its place
    assert subject_of(graph, rows, 0).items.tolist() == [6, 5, 7]


@pytest.mark.parametrize("name", [*SEQUENCES])
def test_what_is_older_than_max_len_is_not_read(models: dict[str, Model], name: str) -> None:
    long = [9, 8, 7, 6, 5, 4, 3, 2]
    rows = [long, *ROWS[1:]]
    subject = subject_of(models[name], rows, 0)
    assert (subject.items.tolist(), subject.reading.n_unread) == (long[-6:], 2)
    cut = [long[-6:], *ROWS[1:]]
    assert torch.allclose(subject.full, subject_of(models[name], cut, 0).full)
    both = [attributed(models[name], "leave_one_out", 0, each) for each in (rows, cut)]
    assert torch.allclose(*both)


def test_the_whole_history_has_the_scores_that_the_model_ranks_by(models: dict[str, Model]) -> None:
    for model in models.values():
        subject = subject_of(model, ROWS, 4, of="score")
        model.eval()
        with torch.no_grad():
            scores = model.score(query_of(ROWS, 4))[0]
        model.train()
        assert torch.allclose(subject.full, scores[subject.targets])
        ranks = subject.ranks(subject.full_mask())[0]
        assert ranks.tolist() == [1 + int((scores > scores[target]).sum()) for target in (1, 20)]


@pytest.mark.parametrize(("case", "reason"), REFUSED.items())
def test_what_a_model_has_not_is_refused(models: dict[str, Model], case: tuple[str, str], reason: str) -> None:
    with pytest.raises(ValueError, match=f"{reason}.*; use leave_one_out or reagent"):
        attributed(models[case[0]], case[1], 4)


def test_an_encoder_that_reads_tokens_is_refused_what_follows_vectors(
    models: dict[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = models["sasrec"]
    subject = subject_of(model, ROWS, 4)
    monkeypatch.setattr(type(model.encoder), "reads_tokens", True)
    for method in ("integrated_gradients", "attention"):
        with pytest.raises(ValueError, match="Transformer reads which items there are, beside their vectors"):
            make(method).attribute(subject, torch.Generator())


def test_models_without_a_history_or_without_vectors() -> None:
    with pytest.raises(ValueError, match="BPRMF learns a vector for each user and reads no history"):
        subject_of(model_of("bprmf", ROWS), ROWS, 4)
    ease = model_of("ease", ROWS, double=False)
    assert attributed(ease, "leave_one_out", 4).shape[0] == 2
    with pytest.raises(ValueError, match="EASE reads no item vectors"):
        attributed(ease, "integrated_gradients", 4)
    found = []
    for similar in ("auto", "co_occurrence"):
        method = registry.make("attribution", {"name": "reagent", "similar": similar, "max_rounds": 1})
        found.append(method.attribute(subject_of(ease, ROWS, 4), torch.Generator().manual_seed(0)))
    assert found[0].shape[0] == 2
    assert torch.equal(*found)
    method = registry.make("attribution", {"name": "reagent", "similar": "vectors"})
    with pytest.raises(ValueError, match="similar = 'vectors': EASE has no item vectors; use 'co_occurrence'"):
        method.attribute(subject_of(ease, ROWS, 4), torch.Generator())


def test_mistakes(models: dict[str, Model]) -> None:
    model = models["sasrec"]
    for settings, message in (
        ({"of": "logit"}, "of = 'logit' must be one of score, log_probability"),
        ({"block_rows": 0}, "block_rows = 0 must be at least 1"),
        ({"targets": []}, "targets is empty"),
    ):
        with pytest.raises(ValueError, match=message):
            subject_of(model, ROWS, 4, **settings)
    with pytest.raises(ValueError, match="the user has no history to attribute anything to"):
        subject_of(model, [[], *ROWS[1:]], 0)
    recommender = recommender_of(model.eval(), ROWS)
    for arguments, message in (
        ({"user": "u99"}, "user = 'u99' is not among the 12 users"),
        ({"user": "u4", "items": ["i99"]}, "item = 'i99' is not among the 30 items of this run; the nearest are"),
        ({"user": "u4", "methods": ["leave_two_out"]}, "did you mean leave_one_out"),
        ({"user": "u4", "methods": []}, r"methods = \[\] must be a list of at least one of attention"),
        ({"user": "u4", "methods": ["attention", "Attention"]}, "attention stands there twice"),
        ({"user": "u4", "k": 0}, "k = 0 must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            rg.explain.attribute(recommender, **arguments)
    model.train()


class GivenValues(Attribution):
    """Values that an own attribution computes wrongly."""

    values: Any = None

    def attribute(self, subject: subjects.Subject, generator: torch.Generator) -> torch.Tensor:
        found: torch.Tensor = self.values
        return found


@pytest.mark.parametrize(
    ("values", "given"),
    [(torch.rand(9), r"\[9\]"), (torch.rand(9, 2), r"\[9, 2\]"), (torch.rand(3, 9), r"\[3, 9\]"), ([[0.1]], "list")],
)
def test_values_of_an_own_attribution_that_are_of_other_events_are_refused(
    models: dict[str, Model], values: Any, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "key_of", lambda kind, cls: "leaveoneout")
    own = GivenValues()
    own.values = values
    recommender = recommender_of(models["sasrec"].eval(), ROWS)
    wanted = rf"attribute gave {given} for 2 items and \d+ events; give a tensor \[2, "
    with pytest.raises(ValueError, match=wanted):
        rg.explain.attribute(recommender, "u4", k=2, methods=[own], n_random=1)
    models["sasrec"].train()


def test_without_methods_each_model_has_those_that_it_can() -> None:
    for name, methods in (("sasrec", ["leave_one_out", "integrated_gradients"]), ("ease", ["leave_one_out"])):
        model = rg.models.SASRec(hidden_dim=8, n_layers=1) if name == "sasrec" else rg.models.EASE()
        rows = [(f"u{user}", f"i{item}", place) for user, row in enumerate(ROWS) for place, item in enumerate(row)]
        frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
        log = rg.Interactions.from_frame(frame, user="user", item="item", timestamp="time")
        training = {"max_epochs": 1} if name == "sasrec" else {}
        run = rg.fit(model, log.split("leave-one-out"), seed=0, device="cpu", **training)
        (why,) = rg.explain.attribute(run, "u4", k=1)
        assert [one.method for one in why.methods] == methods


def test_ids_titles_and_a_seed(models: dict[str, Model]) -> None:
    recommender = recommender_of(models["sasrec"], ROWS)
    methods = ["leave_one_out", {"name": "reagent", "max_rounds": 1, "round_size": 4}]
    found = rg.explain.attribute(recommender, "u4", ["i1", "i20"], methods, seed=5)
    assert [each.item.id for each in found] == ["i1", "i20"]
    assert [one.method for one in found[0].methods] == ["leave_one_out", "reagent"]
    assert [node.id for node in found[0].events] == [f"i{item}" for item in ROWS[4][-6:]]
    assert rg.explain.attribute(recommender, "u4", ["i1", "i20"], methods, seed=5) == found
    assert rg.explain.attribute(recommender, "u4", ["i1", "i20"], methods, seed=6) != found
    models["sasrec"].train()


def test_fewer_variants_of_a_long_history_are_computed_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A transformer's weights of pairs grow with the square of its length, whatever the number of items is."""
    model = model_of("sasrec", ROWS, **SEQUENCES["sasrec"])
    assert subject_of(model, ROWS, 4).block_rows == 256
    monkeypatch.setattr(subjects, "MOST_CELLS", 200)
    subject = subject_of(model, ROWS, 4)
    assert subject.reading.n_cells == subject.n_events * 8
    assert subject.block_rows == 200 // subject.reading.n_cells
