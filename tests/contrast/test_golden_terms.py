"""Agreement with what the published code of MCLRec and MEOW computes from the same embeddings."""

from __future__ import annotations

import math
from pathlib import Path

import contrast_oracles as dense
import numpy as np
import pytest
import torch
from torch import Tensor

from recgraph.contrast.regularisers import Margin
from recgraph.contrast.term import ContrastiveTerm

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def load(name: str) -> dict[str, Tensor]:
    with np.load(GOLDEN / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("step", ["a", "b"])
def test_mclrec(step: str) -> None:
    golden = load(f"mclrec_step_{step}")
    h1, h2, z1, z2 = (golden[name] for name in ("z1", "z2", "v1", "v2"))
    tau = float(golden["tau"])
    close(ContrastiveTerm(temperature=tau)(h1, h2), golden["nce_dot"])
    close(ContrastiveTerm(temperature=tau, similarity="cosine")(h1, h2), golden["nce_cos"])
    pairs = [(z1, z2), (h1, z2), (h2, z1)]
    plain = ContrastiveTerm()
    cl2 = torch.stack([plain(a, b) for a, b in pairs]).sum()
    close(cl2, golden["meta_loss_no_reg"])
    margin = Margin(temperature=tau)
    close(margin(h1, z2), golden["reg_z1_v2"])
    reg = 0.1 * torch.stack([margin(a, b) for a, b in pairs]).sum()
    close(reg, golden["reg_all"])
    close(cl2 + reg, golden["meta_loss"])


@pytest.mark.parametrize("step", ["a", "b"])
class TestMEOW:
    """The graph line's losses are the same objective with other weights and candidates."""

    @pytest.mark.parametrize("block_rows", [None, 7])
    def test_info_nce(self, step: str, block_rows: int | None) -> None:
        golden = load(f"meow_step_{step}")
        term = ContrastiveTerm(
            temperature=float(golden["tau"]),
            objective={"name": "info_nce", "count_positive": False, "block_rows": block_rows},
            weight=dense.Dense(golden["weight_hard"].log()),
        )
        close(term(golden["z_coarse"], golden["z_fine_projected"]), golden["loss_info"])

    def test_proto_nce(self, step: str) -> None:
        golden = load(f"meow_step_{step}")
        term, losses = ContrastiveTerm(objective="info_nce"), []
        for k in (0, 1):
            centroid = golden[f"centroid_{k}"]
            loss = term(
                golden["z_coarse"],
                centroid,
                positives=golden[f"cluster_{k}"],
                temperatures=golden[f"density_{k}"],
            )
            # the authors' mean over N where the formula has one over prototypes
            losses.append(loss + math.log(len(golden["z_coarse"]) / len(centroid)))
        close(torch.stack(losses).mean(), golden["loss_proto"])
