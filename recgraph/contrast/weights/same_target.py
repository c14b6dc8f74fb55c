"""Same target: samples that lead to the same item are no negatives of each other."""

from __future__ import annotations

from recgraph.contrast.weights.self_mask import SelfMask


class SameTarget(SelfMask):
    """The self mask where the ids are the samples' target items: DuoRec's mask of false negatives.

    Source: Qiu et al., "Contrastive Learning for Representation Degeneration Problem in Sequential Recommendation",
    WSDM 2022.
    """
