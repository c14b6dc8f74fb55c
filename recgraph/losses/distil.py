"""Distilling: a student's scores learn those of a teacher for the same candidates."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from recgraph.blocks import work_type

__all__ = ["DistilBy", "distil_loss"]

DistilBy = Literal["kl", "regression"]


def distil_loss(student: Tensor, teacher: Tensor, by: DistilBy = "kl", temperature: float = 1.0) -> Tensor:
    """The mean over rows of ``T^2 KL(softmax(t / T) || softmax(s / T))``, or of squared differences of centred scores.

    By regression: ``mean_j ((s_j - mean s) - (t_j - mean t))^2``; what all scores of a row have in common is no part of
    a ranking.

    Source: regression of the teacher's scores: Barkan et al., Scalable Attentive Sentence-Pair Modeling via Distilled
    Sentence Embedding (AAAI 2020), there of the logits as they are; the other, listwise, with the factor T^2: Hinton,
    Vinyals and Dean, Distilling the Knowledge in a Neural Network (2015).

    Args:
        student: [B, K], s.
        teacher: [B, K], t; no gradient flows into it.
        by: which of the two.
        temperature: T, of the first.
    """
    work = work_type(student)
    s, t = student.to(work), teacher.detach().to(work)
    if by == "regression":
        difference = (s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
        return difference.square().mean()
    log_s, log_t = F.log_softmax(s / temperature, 1), F.log_softmax(t / temperature, 1)
    return temperature**2 * (log_t.exp() * (log_t - log_s)).sum(1).mean()
