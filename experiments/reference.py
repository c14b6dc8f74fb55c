"""Every agreement with published code and with other libraries: a JSON object a line, exit status 1
if one fails.

``make reference`` runs it. Inputs are the golden files under tests/golden and, for the Beauty
weights, the shared folder (``RECGRAPH_SHARED``).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import recgraph as rg
from experiments.bench.environments import EnvironmentMissing
from experiments.meow_reference import CHECKS as MEOW_CHECKS
from experiments.parity import closed_form_parity, lightgcn_parity
from experiments.published_weights import load_published
from recgraph.contrast.term import ContrastiveTerm
from recgraph.data.batches import SequenceBatch
from recgraph.evaluate import evaluate
from recgraph.models.sequence.mclrec import MCLRec
from recgraph.rng import Generators
from recgraph.sparse.ragged import Ragged
from recgraph.train.phases import freeze_all_but, total_loss

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("RECGRAPH_SHARED", ROOT.parent / "shared"))
GOLDEN = ROOT / "tests" / "golden"
NEAR_ZERO = 1e-12

# facts of the published weights, to the fourth decimal: seen items kept, excluded
BEAUTY = {
    "keep": {
        "recall": {5: 0.0581, 10: 0.0871, 20: 0.1243, 50: 0.1853},
        "ndcg": {5: 0.0352, 10: 0.0446, 20: 0.0539, 50: 0.0660},
        "mrr": {5: 0.0278, 10: 0.0316, 20: 0.0341},
    },
    "exclude": {
        "recall": {5: 0.0693, 10: 0.0951, 20: 0.1306, 50: 0.1892},
        "ndcg": {5: 0.0493, 10: 0.0576, 20: 0.0665, 50: 0.0781},
        "mrr": {5: 0.0427, 10: 0.0461, 20: 0.0485},
    },
}
BEAUTY_VALID = {
    "recall": {5: 0.0720, 10: 0.1082, 20: 0.1482, 50: 0.2207},
    "ndcg": {5: 0.0436, 10: 0.0553, 20: 0.0654},
}


def relative_error(got: Tensor, wanted: Tensor) -> float:
    """The worst relative error, where values within 1e-12 of each other count as equal."""
    got, wanted = got.double(), wanted.double()
    difference = (got - wanted).abs()
    return float(
        torch.where(difference <= NEAR_ZERO, 0.0, difference / wanted.abs().clamp(min=1e-300)).max()
    )


def read(path: Path) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.asarray(value)) for name, value in np.load(path).items()}


def mclrec_steps() -> Iterator[dict[str, Any]]:
    """The two golden steps of MCLRec: outputs, terms, losses of both optimisation steps and their
    gradients.
    """
    for step in "ab":
        yield golden_step(f"mclrec_step_{step}", mclrec_step, f"mclrec_step_{step}.npz")


def meow_steps() -> Iterator[dict[str, Any]]:
    """The two golden steps of MEOW and AdaMEOW: graphs, contexts, views, losses and their
    gradients.
    """
    for name, compute in MEOW_CHECKS.items():
        for step in "ab":
            yield golden_step(f"{name}_step_{step}", compute, f"meow_step_{step}.npz")


def golden_step(
    name: str, compute: Callable[[dict[str, Tensor]], dict[str, Tensor]], file: str
) -> dict[str, Any]:
    """What our code computes from the inputs of a golden file, beside what the published code
    computed.
    """
    golden = read(GOLDEN / file)
    got = {key: value.detach() for key, value in compute(golden).items()}
    errors = {key: relative_error(value, golden[key]) for key, value in got.items()}
    worst = max(errors.values())
    return {
        "name": name,
        "worst_relative_error": worst,
        "greatest_difference": max(
            float((value - golden[key]).abs().max()) for key, value in got.items()
        ),
        "ok": worst <= 1e-8,
        "compared": errors,
    }


def mclrec_step(golden: dict[str, Tensor]) -> dict[str, Tensor]:
    """What our model computes from a golden step's inputs, under the golden names."""
    beta, view_weight, tau = (float(golden[name]) for name in ("beta", "lmd", "tau"))
    weights = {name: value for name, value in golden.items() if name.startswith(("model.", "aug"))}
    model = load_published(
        MCLRec,
        weights,
        int(golden["n_heads"]),
        view_weight=view_weight,
        latent_weight=beta,
        contrast={"temperature": tau},
        dropout=0.0,
        encoder={"attention_dropout": 0.0},
        regime="prefix",
    )
    views = [Ragged.from_padded(golden[f"aug_seq{i}"], golden[f"aug_len{i}"]) for i in (1, 2)]
    sequences = Ragged.from_padded(golden["item_seq"], golden["item_len"])
    # a target that no two rows share keeps any weighting by target out of the comparison
    ids = torch.arange(len(golden["target"]))
    batch = SequenceBatch(
        ids, sequences, golden["target"], sequences, ids, causal=False, generators=Generators(0)
    )
    batch.drawn["views"] = views
    table = model.item_embedding.weight
    with torch.no_grad():
        h, h1, h2 = (model.encoder(rows, table) for rows in (sequences, *views))
        z1, z2 = model.augmenters[0](h1), model.augmenters[1](h2)
        terms = model(batch, ("rec", "cl1", "cl2", "reg"))
        got = {
            "seq_output": h,
            "z1": h1,
            "z2": h2,
            "v1": z1,
            "v2": z2,
            "rec_loss": terms["rec"],
            "nce_dot": terms["cl1"],
            "nce_cos": ContrastiveTerm(temperature=tau, similarity="cosine", objective="nt_xent")(
                h1, h2
            ),
            "reg_z1_v2": model.margin(h1, z2),
            "reg_all": 0.1 * terms["reg"],
            "meta_loss": terms["cl2"] + 0.1 * terms["reg"],
            "meta_loss_no_reg": terms["cl2"],
        }
    encoder, augmenters, _ = model.phases
    groups = model.parameter_groups()
    with freeze_all_but(groups, encoder.groups):
        loss = total_loss(model(batch, tuple(encoder.terms)), encoder)
        loss.backward()
    got["total_step1"] = loss.detach()
    width = model.config.hidden_dim
    grad = table.grad
    assert grad is not None
    # the published table has one more row, which nothing reads
    got["grad_item_embedding_step1"] = torch.cat([grad, grad.new_zeros(1, width)])
    got["grad_query0_step1"] = model.encoder.layers[0].qkv.weight.grad[:width]
    with freeze_all_but(groups, augmenters.groups):
        loss = total_loss(model(batch, tuple(augmenters.terms)), augmenters)
        loss.backward()
    # the published code's augmenter step also carries lambda cl1, a constant in the augmenters
    got["total_step2"] = loss.detach() + view_weight * terms["cl1"]
    got["grad_aug1_dense1_step2"] = model.augmenters[0].dense_1.weight.grad
    return got


def beauty_model(split: rg.Split, weights: Path) -> MCLRec:
    """The published weights, with the items in the order of the split."""
    state = read(weights)
    ids = torch.as_tensor(split.items.ids(torch.arange(split.n_items).numpy()).cast(int).to_list())
    # the published table is ordered by the file's own item numbers
    table = state["item_embedding.weight"]
    state["item_embedding.weight"] = torch.cat([table[:1], table[ids], table[-1:]])
    return load_published(MCLRec, state, n_heads=2)


def beauty_weights() -> Iterator[dict[str, Any]]:
    """The published Beauty weights, both seen-item conventions from one call."""
    weights, log = (
        SHARED / "golden" / "mclrec_beauty_weights.npz",
        SHARED / "data" / "sequences" / "Amazon_Beauty.txt",
    )
    if not weights.is_file() or not log.is_file():
        yield {
            "name": "mclrec_beauty_weights",
            "ok": False,
            "reason": f"no {weights} or {log}; set RECGRAPH_SHARED",
        }
        return
    split = rg.load_data(log, format="sequences").split("leave-one-out")
    model = beauty_model(split, weights)
    options: dict[str, Any] = {"cutoffs": (5, 10, 20, 50), "metrics": ("recall", "ndcg", "mrr")}
    test = evaluate(
        model,
        split.test,
        split=split,
        part="test",
        fitted_on="published",
        history="train+valid",
        **options,
    )
    for seen, wanted in BEAUTY.items():
        yield row(f"mclrec_beauty_weights_test_seen_{seen}", test[seen].metrics, wanted)
    valid = evaluate(
        model,
        split.valid,
        split=split,
        part="valid",
        fitted_on="published",
        seen=("keep",),
        **options,
    )
    yield row("mclrec_beauty_weights_valid_seen_keep", valid["keep"].metrics, BEAUTY_VALID)


def row(
    name: str, metrics: dict[str, float], wanted: dict[str, dict[int, float]]
) -> dict[str, Any]:
    """A metric row, compared to the fourth decimal."""
    flat = {
        f"{metric}@{k}": value for metric, values in wanted.items() for k, value in values.items()
    }
    got = {key: round(metrics[key], 4) for key in flat}
    return {"name": name, "metrics": got, "ok": got == flat, "published": flat}


def lightgcn() -> Iterator[dict[str, Any]]:
    """LightGCN beside PyTorch Geometric's, step by step from one start."""
    log = SHARED / "data" / "ml-100k"
    if not log.is_dir():
        yield {"name": "lightgcn_pyg", "ok": False, "reason": f"no {log}; set RECGRAPH_SHARED"}
        return
    found = lightgcn_parity(rg.load_data(log).split("ratio").train)
    close = (
        found["worst_difference_of_losses"] <= 1e-5 and found["worst_difference_of_vectors"] <= 1e-3
    )
    yield {"name": "lightgcn_pyg", "ok": close, **found}


def closed_form() -> Iterator[dict[str, Any]]:
    """EASE beside RecTools', iALS beside implicit's, both in an environment of their own."""
    log = SHARED / "data" / "ml-100k"
    try:
        yield from closed_form_parity(log)
    except (FileNotFoundError, EnvironmentMissing) as error:
        yield {"name": "closed_form", "ok": False, "reason": f"{error}"}


CHECKS = (mclrec_steps, meow_steps, beauty_weights, lightgcn, closed_form)


def main() -> int:
    failed = 0
    for check in CHECKS:
        for line in check():
            print(json.dumps(line), flush=True)
            failed += not line["ok"]
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
