"""Pseudo-labels: classes of nodes learned from few labels, for the rest from their own soft predictions."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recgraph.accelerated import full_precision
from recgraph.blocks import row_blocks, work_type
from recgraph.contrast.clustering import kmeans
from recgraph.ranks import stacked
from recgraph.unit_length import unit_length

__all__ = ["PseudoLabels", "voted"]


class PseudoLabels(nn.Module):
    """``info``'s two views against the prototypes of K classes: labels where they are known, else soft pseudo-labels.

    f and c are the fine and the coarse view (HeCo: the meta-path and the schema view), of unit length, w_k a prototype
    of unit length for each class, p_i = softmax_k(f_i . w_k / tau) and q_i the same of c_i. The loss is the sum of

    - ``-mean over labelled i of log p_i[y_i]``;
    - ``-mean over the others of log(p_i . p_n(i))``, n(i) the node that global and local similarity vote for together,
      ``argmax_{j != i} (share c_i . c_j + (1 - share) f_i . f_j)``;
    - ``-mean over the others of max(p_i) log q_i[y]``, y drawn from p_i and neither learned through: a pseudo-label
      counts by its confidence, and none is cut off at a threshold;
    - ``sum_k m_k log(K m_k)``, m the mean of p: no class is left empty.

    Classes of which no node is labelled are new ones. At the first step a labelled class has the mean of its nodes for
    prototype; the others are k-means centroids of the unlabelled nodes, one by one the one farthest from those there.

    Source: Sun et al., Contrastive Pseudo Learning for Open-World DeepFake Attribution (ICCV 2023): global-local voting
    and confidence-based soft pseudo-labels. Written from the paper's account of these parts, its code is not public.
    Departures: a node has no patches, so the global similarity is that of the coarse view and the local one that of
    meta-path by meta-path, the fine view; both views take the place of two augmentations; the number of classes is
    given, as there. Faces and their regions do not carry over, nor does the pretrained first stage.

    Args:
        dim: D.
        n_classes: K.
        temperature: tau.
        share: of the coarse view in the vote.
    """

    begun: Tensor

    def __init__(self, dim: int, n_classes: int, temperature: float = 0.1, share: float = 0.5) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(unit_length(torch.randn(n_classes, dim)))
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))
        self.temperature, self.share = temperature, share
        self._has_begun: bool | None = None

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._has_begun = None

    def forward(self, fine: Tensor, coarse: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        """The loss.

        Args:
            fine, coarse: [N, D], views of the same nodes.
            labels: [N] int64, -1 where the class is not known.
            generator: draws the pseudo-labels; on any device.
        """
        if self._has_begun is None:
            self._has_begun = bool(self.begun)
        work = work_type(fine, coarse)
        with full_precision(fine):
            return self._loss(fine.to(work), coarse.to(work), labels, generator)

    def _loss(self, fine: Tensor, coarse: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        if not self._has_begun:
            self._begin(fine.detach(), labels)
        f, c = unit_length(fine), unit_length(coarse)
        weights = unit_length(self.prototypes.to(f.dtype)) / self.temperature
        log_p, log_q = (F.log_softmax(view @ weights.t(), 1) for view in (f, c))
        p = log_p.exp()
        known = (labels >= 0).to(p.dtype)
        others, n_classes = 1 - known, p.shape[1]
        per_known, per_other = 1 / known.sum().clamp(min=1), 1 / others.sum().clamp(min=1)
        own = log_p.gather(1, labels.clamp(min=0)[:, None])[:, 0]
        partners = voted(f.detach(), c.detach(), self.share)
        agreed = torch.logsumexp(log_p + log_p.index_select(0, partners), 1)
        drawn = self._draw(p.detach(), generator)
        confidence = p.detach().amax(1)
        pseudo = confidence * log_q.gather(1, drawn[:, None])[:, 0]
        mean = p.mean(0)
        spread = (mean * (n_classes * mean).clamp(min=torch.finfo(p.dtype).tiny).log()).sum()
        loss: Tensor = -(known * own).sum() * per_known - (others * (agreed + pseudo)).sum() * per_other + spread
        return loss

    def _draw(self, p: Tensor, generator: torch.Generator) -> Tensor:
        """[N] int64 ~ p, by its distribution function."""
        uniform = torch.rand(len(p), generator=generator, device=generator.device).to(p)
        return (p.cumsum(1) < uniform[:, None]).sum(1).clamp(max=p.shape[1] - 1)

    @torch.no_grad()
    def _begin(self, fine: Tensor, labels: Tensor) -> None:
        f, there = unit_length(fine), torch.unique(labels)
        there = there[there >= 0]
        found = {int(name): unit_length(f[labels == name].mean(0)) for name in there}
        unlabelled, n_classes = f[labels < 0], len(self.prototypes)
        if len(found) < n_classes and len(unlabelled) >= n_classes:
            centroids = unit_length(kmeans(unlabelled, n_classes).centroids).to(f)
            for name in (name for name in range(n_classes) if name not in found):
                nearest = (centroids @ torch.stack(list(found.values())).t()).amax(1) if found else centroids[:, 0]
                found[name] = centroids[nearest.argmin()]
        for name, prototype in found.items():
            self.prototypes[name] = prototype
        # equal on all ranks, also where sums on a device are not the same each time
        self.prototypes.copy_(stacked(self.prototypes)[0])
        self.begun.fill_(True)
        self._has_begun = True


@torch.no_grad()
def voted(fine: Tensor, coarse: Tensor, share: float) -> Tensor:
    """[N] int64: of each row the other one of the greatest ``share c_i . c_j + (1 - share) f_i . f_j``, by blocks."""
    joined = torch.cat([share**0.5 * coarse, (1 - share) ** 0.5 * fine], 1)
    found = torch.zeros(len(joined), dtype=torch.int64, device=joined.device)
    for rows in row_blocks(len(joined), len(joined), joined):
        similarity = joined[rows] @ joined.t()
        places = torch.arange(len(joined), device=joined.device)[rows]
        found[rows] = similarity.scatter_(1, places[:, None], -torch.inf).argmax(1)
    return found
