"""Parts that read labels against loops over rows, and in models of logs with ratings."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_non_contrastive import two
from torch import Tensor

from recgraph.accelerated import accelerator_path
from recgraph.contrast.blockwise import Candidates
from recgraph.contrast.conr import ConR
from recgraph.contrast.ratings import LabelDistance, SupReMix, deviation
from recgraph.contrast.term import ContrastiveTerm
from recgraph.contrast.views import Pairs, Similarity, Views
from recgraph.ranks import Share

LABELS = torch.tensor([1.0, 4.0, 2.0, 5.0, 2.0, torch.nan, 3.0, 4.0])
N = len(LABELS)


def views(a: Tensor, b: Tensor, labels: Tensor = LABELS, seed: int = 0) -> Views:
    ids = torch.arange(len(a))
    return Views(a, b, ids, ids, generator=torch.Generator().manual_seed(seed), labels_a=labels, labels_b=labels)


def spread(labels: list[float]) -> float:
    known = [y for y in labels if not math.isnan(y)]
    mean = sum(known) / len(known)
    return math.sqrt(sum((y - mean) ** 2 for y in known) / len(known))


def test_label_distance_is_a_loop_over_pairs() -> None:
    a, b = two(N)
    pairs = Pairs(torch.arange(3), torch.arange(N), a[:3], b, LABELS[:3].double(), LABELS.double())
    log_w = LabelDistance(power=2.0).log_w(pairs)
    deviation = spread(LABELS.tolist())
    for i in range(3):
        for j in range(N):
            y, other = float(LABELS[i]), float(LABELS[j])
            expected = 1.0 if math.isnan(other) else (abs(y - other) / deviation) ** 2
            assert math.exp(float(log_w[i, j])) == pytest.approx(expected)
    same = replace(pairs, anchor_labels=torch.ones(3).double(), candidate_labels=torch.ones(N).double())
    assert bool((LabelDistance().log_w(same) == -math.inf).all())


@pytest.mark.parametrize("settings", [{}, {"power": 0.0}])
def test_a_weighed_positive_is_the_same_in_every_form_of_the_loss(settings: dict[str, Any]) -> None:
    a, b = two(N)
    draw = torch.Generator().manual_seed(0)
    moved = LABELS.roll(1)
    ours = {"similarity": "cosine", "temperature": 0.5, "weight": "label_distance", "weight_settings": settings}
    found = [
        ContrastiveTerm(objective=name, objective_settings={"weigh_positive": True, **options}, **mixed, **ours)(
            a, b, generator=draw, labels_a=LABELS, labels_b=moved
        )
        for name, options, mixed in (
            ("info_nce", {}, {}),
            ("info_nce", {"n_candidates": N - 1}, {}),
            ("debiased_info_nce", {"tau_plus": 0.0}, {}),
            (
                "info_nce",
                {},
                {
                    "mixture": "feature_transformation",
                    "mixture_settings": {"positive_alpha": None, "negative_alpha": None},
                },
            ),
        )
    ]
    for other in (found[2], found[3]):
        torch.testing.assert_close(other, found[0])
    assert bool(found[1].isfinite())


def test_shapes_of_mixtures_and_weights_do_not_follow_from_labels() -> None:
    """Else an accelerator would make the host wait: a tensor without data has no answer to how many are known."""
    a, b, labels = (x.to("meta") for x in (*two(N), LABELS))
    ids = torch.arange(N, device="meta")
    mixed = SupReMix()(a, b, Candidates(ids), views(a, b, labels))
    assert mixed.positive is not None
    assert mixed.positive.shape == a.shape
    assert LabelDistance().log_w(Pairs(ids, ids, a, b, labels, labels)).shape == (N, N)
    assert ConR()(views(a, b, labels), Similarity(), None).loss.shape == ()
    assert float(deviation(torch.full((3,), torch.nan))) == 1.0
    assert float(deviation(LABELS)) == pytest.approx(spread(LABELS.tolist()))


@pytest.mark.parametrize("objective", ["info_nce", "nt_xent"])
def test_mixtures_of_ranks_are_those_of_one_process(objective: str) -> None:
    """Where nothing is left to chance (neighbours in label are unique, negatives unmixed) the mean over ranks is."""
    a, b = two(N)
    labels = torch.arange(N).double()
    settings = {"max_share": 1e-12, "positive_share": 1.0, "window": 1.5 / spread(labels.tolist()), "n_negatives": 3}

    def value(share: Share | None) -> Tensor:
        term = ContrastiveTerm(objective=objective, similarity="cosine", mixture="supremix", mixture_settings=settings)
        generator = torch.Generator().manual_seed(0)
        loss: Tensor = term(a, b, labels_a=labels, labels_b=labels, generator=generator, share=share)
        return loss

    if objective == "nt_xent":  # each label stands there twice, so that either row may be drawn
        assert value(Share((5, 3), 1)).isfinite()
        return
    of_ranks = torch.stack([value(Share((5, 3), index)) for index in range(2)]).mean()
    torch.testing.assert_close(of_ranks, value(None))


def conr(a: Tensor, b: Tensor, labels: Tensor, similarity: Similarity, config: dict[str, float]) -> tuple[Tensor, int]:
    """The published sums, a row at a time, and how many rows have none."""
    rows = torch.cat([a, b])
    y = [*labels.tolist(), *labels.tolist()]
    deviation = spread(y)
    known = [i for i in range(len(y)) if not math.isnan(y[i])]
    near = {i: [j for j in known if abs(y[i] - y[j]) / deviation <= config["window"]] for i in known}
    eta = {i: len(near[i]) ** -config["rarity"] for i in known}
    mean = sum(eta.values()) / len(eta)
    units, losses = F.normalize(rows, dim=1), []
    compared = units if similarity.similarity == "cosine" else rows
    for i in known:
        positives = [j for j in near[i] if j != i]
        negatives = [j for j in known if j not in near[i] and float((units[i] @ units[j]).detach()) >= config["near"]]
        if not positives or not negatives:
            losses.append(rows.new_zeros(()))
            continue
        s = {j: compared[i] @ compared[j] / similarity.temperature for j in known}
        pushed = [eta[i] / mean * math.exp(config["push"] * abs(y[i] - y[j]) / deviation) for j in negatives]
        total = sum(s[j].exp() for j in positives) + sum(w * s[j].exp() for w, j in zip(pushed, negatives, strict=True))
        losses.append(eta[i] / mean * sum(total.log() - s[p] for p in positives) / len(positives))
    return torch.stack(losses).mean(), len(y) - sum(loss.requires_grad for loss in losses)


@pytest.mark.parametrize("path", [nullcontext, accelerator_path])
@pytest.mark.parametrize("block_rows", [None, 3])
@pytest.mark.parametrize(
    ("near", "similarity"),
    [
        (-1.0, Similarity(similarity="cosine", temperature=0.3)),
        (0.1, Similarity(similarity="cosine", temperature=0.3)),
        (0.2, Similarity(temperature=0.5)),
    ],
)
def test_conr_is_a_loop_over_rows(
    near: float, similarity: Similarity, block_rows: int | None, path: Callable[[], AbstractContextManager[None]]
) -> None:
    config = {"window": 0.8, "near": near, "push": 0.7, "rarity": 0.5}
    a, b = (x.requires_grad_() for x in two(N))
    with path():
        outcome = ConR(**config, block_rows=block_rows)(views(a, b), similarity, None)
        found = torch.autograd.grad(outcome.loss, (a, b))
    expected, left_out = conr(a, b, LABELS, similarity, config)
    torch.testing.assert_close(outcome.loss, expected, rtol=1e-7, atol=1e-8)
    for ours, theirs in zip(found, torch.autograd.grad(expected, (a, b)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
    assert (outcome.n_anchors, int(outcome.left_out)) == (2 * N, left_out)


def test_conr_without_rows_to_tell_apart_is_0() -> None:
    a, b = (x.requires_grad_() for x in two(N))
    for labels in (torch.full((N,), 3.0), torch.full((N,), torch.nan)):
        outcome = ConR()(views(a, b, labels), Similarity(), None)
        assert float(outcome.loss.detach()) == 0
        assert not any(bool(grad.any()) for grad in torch.autograd.grad(outcome.loss, (a, b)))


def test_mixtures_follow_the_order_of_labels() -> None:
    a, b = (F.normalize(x, dim=1) for x in two(N))
    positives = torch.arange(N)
    part = SupReMix(n_negatives=3, max_share=0.5, positive_share=1.0, window=10.0)
    mixed = part(a * 5, b, Candidates(positives), views(a, b))
    assert mixed.positive is not None
    assert mixed.further is not None
    assert mixed.further_log_w is not None
    torch.testing.assert_close(mixed.y, b)
    deviation = spread(LABELS.tolist())
    for i in range(N):
        y = float(LABELS[i])
        lower = [j for j in range(N) if float(LABELS[j]) < y]
        greater = [k for k in range(N) if float(LABELS[k]) > y]
        if math.isnan(y) or not lower or not greater:
            torch.testing.assert_close(mixed.positive[i], b[i])
        else:
            # it is the mixture of one pair, with the share that makes the label that of the anchor
            made = []
            for j in lower:
                for k in greater:
                    share = float((LABELS[k] - y) / (LABELS[k] - LABELS[j]))
                    assert share * float(LABELS[j]) + (1 - share) * float(LABELS[k]) == pytest.approx(y)
                    made.append(F.normalize(share * b[j] + (1 - share) * b[k], dim=0))
            assert min(float((mixed.positive[i] - one).norm()) for one in made) < 1e-6
        # negatives lie between the anchor and a candidate of another label, which is the nearer one
        others = [j for j in range(N) if j != i and abs(y - float(LABELS[j])) > 0]
        ranked = sorted(others, key=lambda j, i=i: -float(a[i] @ b[j]))[:3]
        assert mixed.further_log_w[i].isfinite().tolist() == [s < len(ranked) for s in range(3)]
        for s, j in enumerate(ranked):
            distance = abs(y - float(LABELS[j]))
            share = 1 - math.exp(float(mixed.further_log_w[i, s])) * deviation / distance
            assert 0 <= share <= 0.5
            torch.testing.assert_close(
                mixed.further[i, s], F.normalize(share * a[i] + (1 - share) * b[j], dim=0), rtol=1e-5, atol=1e-5
            )


def test_candidates_of_the_same_label_take_no_place_of_a_negative_mixture() -> None:
    """Rows of a label that lie together, as the contrast wants them, leave the nearest ones of other labels to mix."""
    labels = torch.arange(5.0).repeat_interleave(8)
    noise = torch.rand(40, 5, generator=torch.Generator().manual_seed(0))
    near = F.normalize(torch.eye(5).repeat_interleave(8, 0) + 0.01 * noise, dim=1)
    part = SupReMix(n_negatives=4, max_share=0.5, positive_share=0.0)
    mixed = part(near, near, Candidates(torch.arange(40)), views(near, near, labels))
    assert mixed.further_log_w is not None
    assert bool(mixed.further_log_w.isfinite().all())


@pytest.mark.parametrize("objective", ["info_nce", "nt_xent"])
def test_mixtures_in_a_term_are_repeatable_and_pass_gradients(objective: str) -> None:
    term = ContrastiveTerm(
        objective=objective, similarity="cosine", temperature=0.2, mixture="supremix", weight="label_distance"
    )
    found = []
    for _ in range(2):
        a, b = (x.float().requires_grad_() for x in two(N))
        draw = torch.Generator().manual_seed(1)
        loss = term(a, b, generator=draw, labels_a=LABELS, labels_b=LABELS)
        found.append((loss.detach(), *torch.autograd.grad(loss, (a, b))))
    for one, other in zip(*found, strict=True):
        assert bool(one.isfinite().all())
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    plain = ContrastiveTerm(objective=objective, similarity="cosine", temperature=0.2, weight="label_distance")
    assert not torch.equal(plain(a, b, labels_a=LABELS, labels_b=LABELS), loss)


@pytest.mark.parametrize(
    "settings",
    [{"objective": "conr"}, {"weight": "label_distance"}, {"mixture": "supremix"}],
    ids=lambda s: next(iter(s)),
)
def test_rows_without_labels_are_refused(settings: dict[str, str]) -> None:
    a, b = two(4)
    with pytest.raises(ValueError, match="reads an ordered label of each row, and there is none"):
        ContrastiveTerm(**settings)(a, b, generator=torch.Generator())
