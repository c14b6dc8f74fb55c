"""ReAGent one draw at a time, and the words of an attribution beside its table; loaded as a user loads them."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor

import recgraph as rg
from recgraph import registry
from recgraph.data.batches import Query
from recgraph.explain.attribution import Subject
from recgraph.explain.explanation import Attributed, Faithfulness, Item, MethodAttribution, Node
from recgraph.models.base import Model, Space
from recgraph.sparse.ragged import Ragged

N_ITEMS, HISTORY, TARGET = 30, [3, 17, 5, 22, 9, 11], 20


@pytest.fixture(scope="module")
def model() -> Model:
    made = rg.models.SASRec(hidden_dim=8, max_len=6, n_layers=2, inner_dim=16)
    made.build(Space(n_users=2, n_items=N_ITEMS), seed=1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4)
    return made.double().eval()


def log_probabilities(model: Model, history: list[int]) -> Tensor:
    """[n_items] of a history, by the model's own ranking."""
    with torch.no_grad():
        return torch.log_softmax(model.score(Query(torch.tensor([-1]), Ragged.from_lists([history])))[0], 0)


def test_reagent_one_draw_at_a_time(model: Model, idea: Callable[[str], ModuleType]) -> None:
    """By the model's own ranking of one replaced history after the other, and with the same draws."""
    module, n = idea("reagent"), len(HISTORY)
    settings = {"n_similar": 4, "round_size": 3, "max_rounds": 3, "n_kept": 2, "top_k": 12, "ratio": 0.5}
    method = registry.make("attribution", {"name": "reagent", **settings})
    query = Query(torch.tensor([0]), Ragged.from_lists([HISTORY]))
    subject = Subject(model, query, torch.tensor([TARGET]))
    found = method.attribute(subject, torch.Generator().manual_seed(8))[0]
    similar = module.similar_items(subject, 4)
    vectors, taken = model.encode_items().detach(), {*HISTORY, TARGET}
    for place, item in enumerate(HISTORY):
        cosine = {i: float(torch.cosine_similarity(vectors[item], vectors[i], 0)) for i in range(N_ITEMS)}
        nearest = sorted(set(cosine) - taken, key=lambda one, by=cosine: -by[one])  # type: ignore[misc]
        assert similar[place].tolist() == nearest[:4]
    g = torch.Generator().manual_seed(8)

    def replaced(mask: Tensor) -> list[list[int]]:
        draws = torch.rand(mask.shape, generator=g, dtype=torch.float64)
        return [
            [int(similar[p, int(4 * draws[row, p])]) if mask[row, p] else HISTORY[p] for p in range(n)]
            for row in range(len(mask))
        ]

    importance = [0.0] * n
    before = math.exp(float(log_probabilities(model, HISTORY)[TARGET]))
    for _ in range(3):
        order = torch.rand(3, n, generator=g).argsort(1)
        mask = torch.zeros(3, n, dtype=torch.bool)
        for row in range(3):
            mask[row, order[row, : round(0.5 * n)]] = True
        for row, variant in enumerate(replaced(mask)):
            after = math.exp(float(log_probabilities(model, variant)[TARGET]))
            odds = min(max((1 + (before - after) / max(before, after)) / 2, 1e-3), 1 - 1e-3)
            for place in range(n):
                importance[place] += (1 if mask[row, place] else -1) * math.log(odds / (1 - odds))
        kept = sorted(range(n), key=lambda place: (-importance[place], place))[:2]
        (variant,) = replaced(torch.tensor([[place not in kept for place in range(n)]]))
        scores = log_probabilities(model, variant)
        if sum(float(score) > float(scores[TARGET]) for score in scores) < 12:
            break
    assert torch.allclose(found, torch.softmax(torch.tensor(importance, dtype=torch.float64), 0))


@pytest.mark.parametrize("values", [(3.0, -1.0, 1.0, 0.5), (-1.0, -2.0), (1.0, 1.0, 1.0, 1.0, 1.0)])
def test_every_claim_of_the_words_is_one_of_the_table(
    values: tuple[float, ...], idea: Callable[[str], ModuleType]
) -> None:
    words, n = idea("attribution_words"), len(values)
    order = tuple(sorted(range(n), key=lambda place: (-values[place], -place)))
    none = Faithfulness(0, 0)
    methods = tuple(MethodAttribution(name, values, order, none) for name in ("leave_one_out", "b"))
    events = tuple(Node("item", place, f"Event {place}") for place in range(n))
    pairs = (("leave_one_out", "b", 0.5),)
    text = words.sentence_of(Attributed(Item(7, "Film"), "score", 1.0, events, 0, methods, pairs, none), 2, 40, 10)
    assert text.startswith("By leave one out, ")
    assert "the 2 methods agree in part (mean rank correlation 0.50)" in text
    above = sum(value for value in values if value > 0)
    if not above:
        assert "nothing in the history speaks for Film" in text
        return
    n_half = next(k for k in range(1, n + 1) if sum(values[p] for p in order[:k]) >= 0.5 * above - 1e-9)
    share = sum(values[place] for place in order[: min(n_half, 3)]) / above
    assert f" {share:.0%} of what speaks for it; half of it lies on {n_half} of {n} items" in text
    assert [f"Event {place}" for place in order[: min(n_half, 3)]] == re.findall(r"Event \d", text)
    assert text.endswith("Film moves from rank 2 to 40 and leaves the first 10.")


def test_the_words_of_a_run(tmp_path: Path, idea: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch,
                            capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    run = rg.fit(rg.models.ItemKNN(), rg.load_dataset("synthetic"), seed=0)
    run.save(tmp_path / "bundle")
    user = run.recommender.users.ids([3]).to_list()[0]
    monkeypatch.setattr(sys, "argv", ["attribution_words.py", str(tmp_path / "bundle"), "--user", str(user)])
    idea("attribution_words").main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all("By leave one out, " in line and "rank" in line for line in lines)
