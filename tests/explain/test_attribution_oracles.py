"""The values of each attribution, beside slow ways to get them: one variant, one step, one draw at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from attributed_models import GRAPHS, N_ITEMS, SEQUENCES, histories, model_of, query_of, subject_of
from torch import Tensor

from recgraph.data.samples import Query
from recgraph.explain.attribution.methods import Attention, IntegratedGradients, LeaveOneOut
from recgraph.explain.attribution.reagent import Reagent
from recgraph.explain.attribution.similar import similar_items
from recgraph.explain.evidence import Walks
from recgraph.graph.frames import INTERACTS
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.graph.pathsim import divide_hubs
from recgraph.models.base import Model
from recgraph.sparse.ragged import Ragged

ROWS = histories()
USER, TARGETS = 4, (1, 20)
LENGTH = {name: settings["max_len"] for name, settings in SEQUENCES.items()}


def log_probabilities(model: Model, history: list[int]) -> Tensor:
    """[n_items] of a history, by the model's own ranking."""
    model.eval()
    with torch.no_grad():
        return torch.log_softmax(model.score(Query(torch.tensor([-1]), Ragged.from_lists([history])))[0], 0)


@pytest.mark.parametrize("name", [*SEQUENCES, "ials"])
def test_leave_one_out_of_a_history(name: str) -> None:
    model = model_of(name, ROWS, **SEQUENCES.get(name, {"hidden_dim": 4}))
    history = ROWS[USER][-LENGTH.get(name, 99) :]
    whole = log_probabilities(model, history)
    found = LeaveOneOut().attribute(subject_of(model, ROWS, USER, TARGETS), torch.Generator())
    for place in range(len(history)):
        without = log_probabilities(model, history[:place] + history[place + 1 :])
        assert found[:, place].tolist() == pytest.approx((whole - without)[list(TARGETS)].tolist(), abs=1e-9)


def lightgcn_vector(
    layers: list[Tensor],
    items: list[int],
    weight: float,
    own: Tensor | None = None,
    rows: Sequence[Sequence[int]] = ROWS,
) -> Tensor:
    """The user's vector by its items, each layer one addend after the other (:class:`EdgeReading`)."""
    n_users = len(rows)
    total = layers[0][USER].clone() if own is None else own.clone()
    for layer in layers[:-1]:
        for item in items:
            degree = sum(item in row for row in rows)
            total += layer[n_users + item] / math.sqrt(len(items) * degree)
    return total * weight


def row_values(model: Model, vector: Callable[[list[int]], Tensor], items: list[int]) -> Tensor:
    """[K, H]: leave one out of a row of a graph, by a function from items to the user's vector."""
    vectors = model.encode_items()

    def values(kept: list[int]) -> Tensor:
        return torch.log_softmax(vectors @ vector(kept), 0)[list(TARGETS)]

    return torch.stack([values(items) - values([one for one in items if one != item]) for item in items], 1)


@torch.no_grad()
def test_leave_one_out_of_a_row_of_lightgcn() -> None:
    model = model_of("lightgcn", ROWS, **GRAPHS["lightgcn"]).eval()
    layers = model.encoder.layers(model.embedding.weight)  # type: ignore[union-attr, operator]
    subject = subject_of(model, ROWS, USER, TARGETS)
    slow = row_values(model, lambda items: lightgcn_vector(layers, items, 1 / len(layers)), subject.items.tolist())
    assert torch.allclose(LeaveOneOut().attribute(subject, torch.Generator()), slow, atol=1e-9)


#: of each user the first event several times; an item that all users have
REPEATED = [row + row[:1] * (user % 4 + 1) for user, row in enumerate(ROWS)]
HUB = [[7, *row] for row in REPEATED]
#: below and above 1; the user's last event has none
WEIGHTS = [[0.05 + 0.3 * ((user + place) % 7) for place in range(len(row))] for user, row in enumerate(HUB)]
WEIGHTS[USER][HUB[USER].index(ROWS[USER][-1])] = 0


def counts_of_user(graph: HeteroGraph, settings: dict[str, Any]) -> Callable[[list[int]], Tensor]:
    """The user's row of the composed user-item-user, [n_users], where the user has some of the items alone.

    The graph is built again without the other edges; where hubs were divided, the divided matrices are.
    """
    whole = graph.adjacency(INTERACTS)
    path = MetaPath("user-item-user", counts=settings.get("counts", "full"))
    if "hub_cap" in settings:
        whole = whole.select(whole.values() != 0)
        whole = whole.pattern() if settings.get("counts") == "binary" else whole.coalesce()
        numbers = whole.with_weights(whole.indices.double())
        left, right = divide_hubs(whole, whole.t(), settings["hub_cap"])
        items = divide_hubs(numbers, numbers.t(), settings["hub_cap"])[0].values().long()
        assert left.shape[1] > whole.shape[1]

    def counts(kept: list[int]) -> Tensor:
        if "hub_cap" not in settings:
            mask = (whole.rows != USER) | torch.isin(whole.indices, torch.tensor(kept, dtype=torch.int64))
            return path.counts(graph.with_edges({INTERACTS: whole.select(mask)})).to_dense()[USER].double()
        mask = (left.rows != USER) | torch.isin(items, torch.tensor(kept, dtype=torch.int64))
        found = left.select(mask).to_dense()[USER].double() @ right.to_dense().double()
        return (found > 0).double() if settings.get("counts") == "binary" else found

    return counts


@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "meowrec"])
def test_integrated_gradients_by_differences(name: str) -> None:
    """One step, one coordinate at a time, with central differences."""
    model = model_of(name, ROWS, **{**SEQUENCES, **GRAPHS}[name])
    user = len(ROWS) - 2
    subject = subject_of(model, ROWS, user, [20])
    found = IntegratedGradients(steps=2).attribute(subject, torch.Generator())[0]
    model.eval()
    with torch.no_grad():
        ends, begin = subject.reading.inputs(), subject.reading.baseline("padding")
        for event in range(len(ends)):
            total = 0.0
            for step in range(2):
                at = begin + (step + 0.5) / 2 * (ends - begin)
                for column in range(ends.shape[1]):
                    moved = at.repeat(2, 1, 1)
                    moved[0, event, column] += 1e-5
                    moved[1, event, column] -= 1e-5
                    above, below = subject.value_of(subject.reading.of_inputs(moved))[:, 0]
                    slope = float(above - below) / 2e-5
                    total += slope * float(ends[event, column] - begin[event, column]) / 2
            assert float(found[event]) == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize("baseline", ["padding", "mean"])
@pytest.mark.parametrize("name", ["sasrec", "gru4rec", "lightgcn", "meowrec"])
def test_integrated_gradients_are_complete(name: str, baseline: str) -> None:
    """They sum to the difference of the values at both ends, the better the more steps there are."""
    model = model_of(name, ROWS, **{**SEQUENCES, **GRAPHS}[name])
    subject = subject_of(model, ROWS, USER, TARGETS)
    gaps = []
    for steps in (8, 32, 128):
        method = IntegratedGradients(steps=steps, baseline=baseline)
        gaps.append(float(method.gap(subject, method.attribute(subject, torch.Generator())).abs().max()))
    assert gaps[2] < 1e-3
    # midpoints: a quarter of the error with twice as many, once the path is resolved
    assert gaps[1] < max(gaps[0] / 4, 1e-9)
    assert gaps[2] < max(gaps[1] / 8, 1e-9)
    # what a graph sends is linear in the score: exact with one step
    if name in GRAPHS:
        score = subject_of(model, ROWS, USER, TARGETS, of="score")
        method = IntegratedGradients(steps=1, baseline=baseline)
        assert float(method.gap(score, method.attribute(score, torch.Generator())).abs().max()) < 1e-9


@pytest.mark.parametrize("name", ["sasrec", "esasrec"])
@torch.no_grad()
def test_attention_of_transformers(name: str) -> None:
    """By loops over layers, heads and places."""
    model = model_of(name, ROWS, **SEQUENCES[name]).eval()
    subject = subject_of(model, ROWS, USER, TARGETS)
    x = model.encoder.norm(subject.reading.inputs() + model.encoder.position_embedding.weight[: subject.n_events])  # type: ignore[union-attr, operator, index]
    flow = torch.eye(subject.n_events, dtype=x.dtype)
    for layer in model.encoder.layers:  # type: ignore[union-attr]
        read = layer.attention_norm(x) if name == "esasrec" else x
        queries, keys, _ = layer.qkv(read).chunk(3, 1)
        width = x.shape[1] // layer.n_heads
        mean = torch.zeros_like(flow)
        for head in range(layer.n_heads):
            columns = slice(head * width, (head + 1) * width)
            for place in range(len(x)):
                raw = [float(queries[place, columns] @ keys[j, columns]) / math.sqrt(width) for j in range(place + 1)]
                odds = [math.exp(each - max(raw)) for each in raw]
                mean[place, : place + 1] += torch.tensor(odds, dtype=x.dtype) / sum(odds) / layer.n_heads
        flow = (mean + torch.eye(len(x))) / 2 @ flow
        x = layer.padded(x[None], torch.ones(1, len(x), dtype=torch.bool))[0]
    for form, expected in (("rollout", flow[-1]), ("last_layer", mean[-1])):
        found = Attention(form=form).attribute(subject, torch.Generator())
        assert torch.allclose(found, expected.expand(2, -1), atol=1e-6)
        assert found.sum(1).tolist() == pytest.approx([1, 1])


def test_attention_of_meta_paths() -> None:
    """The attention of each path times the evidence through each item, path by path."""
    model = model_of("meowrec", ROWS, **GRAPHS["meowrec"]).eval()
    subject = subject_of(model, ROWS, USER, TARGETS)
    graph = model.space.graph  # type: ignore[union-attr]
    rows = [set(row) for row in ROWS]
    slow = torch.zeros(2, subject.n_events, dtype=torch.float64)
    for key, weight in model.path_weights().items():
        walks = Walks(key.path, graph)
        for number, target in enumerate(TARGETS):
            evidence = []
            for item in subject.items.tolist():
                total = 0.0
                if key.node_type == "item":
                    for reached in walks.reach(torch.tensor([item])):
                        total += sum(
                            float(s) for end, s in zip(reached.ends, reached.similarities, strict=True) if end == target
                        )
                elif key.path == "user-item-user":
                    for other in range(len(rows)):
                        shared = rows[USER] & rows[other]
                        if other != USER and target in rows[other] and item in shared:
                            alike = 2 * len(shared) / (len(rows[USER]) + len(rows[other]))
                            total += alike / len(shared)
                evidence.append(total)
            if sum(evidence):
                slow[number] += weight / 2 * torch.tensor(evidence, dtype=torch.float64) / sum(evidence)
    found = Attention().attribute(subject, torch.Generator())
    assert float(slow.sum()) > 0
    assert torch.allclose(found, slow)


@pytest.mark.parametrize("comprehensive", [False, True])
def test_reagent_one_draw_at_a_time(comprehensive: bool) -> None:
    """By the model's own ranking of one replaced history after the other, and with the same draws."""
    model = model_of("sasrec", ROWS, **SEQUENCES["sasrec"])
    history = ROWS[USER][-6:]
    n = len(history)
    subject = subject_of(model, ROWS, USER, [20])
    settings = {"n_similar": 4, "round_size": 3, "max_rounds": 3, "n_kept": 2, "top_k": 12, "ratio": 0.5}
    method = Reagent(comprehensive=comprehensive, **settings)
    found = method.attribute(subject, torch.Generator().manual_seed(8))[0]
    similar = similar_items(subject, 4, "vectors")
    g = torch.Generator().manual_seed(8)

    def replaced(mask: Tensor) -> list[list[int]]:
        draws = torch.rand(mask.shape, generator=g, dtype=torch.float64)
        return [
            [
                int(similar[place, int(4 * draws[row, place])]) if mask[row, place] else history[place]
                for place in range(n)
            ]
            for row in range(len(mask))
        ]

    importance = [0.0] * n
    before = math.exp(float(log_probabilities(model, history)[20]))
    for _ in range(3):
        order = torch.rand(3, n, generator=g).argsort(1)
        mask = torch.zeros(3, n, dtype=torch.bool)
        for row in range(3):
            mask[row, order[row, : round(0.5 * n)]] = True
        for row, variant in enumerate(replaced(mask)):
            after = math.exp(float(log_probabilities(model, variant)[20]))
            delta = (before - after) / max(before, after)
            odds = min(max((1 + delta) / 2, 1e-3), 1 - 1e-3)
            for place in range(n):
                importance[place] += (1 if mask[row, place] else -1) * math.log(odds / (1 - odds))
        kept = sorted(range(n), key=lambda place: (-importance[place], place))[:2]
        others = torch.tensor([place not in kept for place in range(n)])
        ranks = []
        for variant in replaced(torch.stack([others, ~others])):
            scores = log_probabilities(model, variant)
            ranks.append(1 + sum(float(score) > float(scores[20]) for score in scores))
        if ranks[0] <= 12 and (not comprehensive or ranks[1] > 12):
            break
    assert torch.allclose(found, torch.softmax(torch.tensor(importance, dtype=torch.float64), 0))


def test_similar_items_by_loops() -> None:
    model = model_of("sasrec", ROWS, **SEQUENCES["sasrec"])
    subject = subject_of(model, ROWS, USER, TARGETS)
    taken = {*subject.items.tolist(), *TARGETS}
    vectors = model.encode_items().detach()
    rows = [set(row) for row in ROWS]
    counts = [sum(item in row for row in rows) for item in range(N_ITEMS)]
    by_vectors, together = (similar_items(subject, 5, by) for by in ("vectors", "co_occurrence"))  # type: ignore[arg-type]
    for place, item in enumerate(subject.items.tolist()):
        others = [other for other in range(N_ITEMS) if other not in taken]
        cosine = {other: float(torch.cosine_similarity(vectors[item], vectors[other], 0)) for other in others}
        assert by_vectors[place].tolist() == sorted(others, key=lambda one: -cosine[one])[:5]
        shared = {one: sum({item, one} <= row for row in rows) / math.sqrt(max(counts[one], 1)) for one in others}
        first = [one for one in sorted(others, key=lambda one: (-round(shared[one], 9), one)) if shared[one] > 0][:5]
        assert together[place].tolist() == first + [-1] * (5 - len(first))


@torch.no_grad()
def test_time_gaps_are_counted_from_what_is_left() -> None:
    model = model_of("sasrec", ROWS, **SEQUENCES["sasrec"], time_gaps=True)
    model.gap_embedding.weight[1:] = torch.randn(64, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))  # type: ignore[union-attr, index]
    history, times = [9, 8, 7, 6, 5, 4, 3, 2], [0, 1, 3, 10, 30, 31, 90, 400]
    query = Query(torch.tensor([0]), Ragged.from_lists([history]), Ragged.from_lists([times]))
    model.eval()
    reading = model.reading(query)
    full_mask = torch.ones(1, 6, dtype=torch.bool)
    whole = model.encode_users(query)
    assert torch.allclose(reading.represent(full_mask), whole)
    assert torch.allclose(reading.of_inputs(reading.inputs()[None]), whole)
    full_mask[0, 2] = False  # the item of time 30; 31 then follows 10
    kept = [0, 1, 2, 3, 5, 6, 7]
    short = Query(
        torch.tensor([0]),
        Ragged.from_lists([[history[n] for n in kept]]),
        Ragged.from_lists([[times[n] for n in kept]]),
    )
    tokens = model.tokens_of(short.history, short.times).last(5)
    assert torch.allclose(reading.represent(full_mask), model.encode_tokens(tokens))
    assert query_of(ROWS, USER).times is None
