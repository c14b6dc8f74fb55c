"""The parts of a model's contrastive term, chosen by configuration: objective, similarity, weights of candidates."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field

from recgraph import registry
from recgraph.config import Added, Search
from recgraph.contrast.term import ContrastiveTerm, Contrast
from recgraph.models.base import ModelConfig
from recgraph.rng import Generators

#: a name, or a mapping with ``name`` and settings; an augmentation itself is read as its specification
AugmentationSpec = Annotated[
    str | dict[str, Any], BeforeValidator(lambda value: value)
]


class ContrastConfig(ModelConfig):
    """Settings that all contrastive models share, on both lines; a model changes the defaults."""

    objective: Annotated[
        str,
        Field(description="how anchors and candidates are chosen, a name of the registry's kind 'objective'"),
        Added(),
    ] = "nt_xent"
    objective_options: Annotated[
        dict[str, Any], Field(default_factory=dict, description="settings of the objective"), Added()
    ]
    similarity: Annotated[Literal["dot", "cosine"], Field(description="of the contrastive terms")] = "dot"
    temperature: Annotated[
        float, Field(gt=0, description="of the contrastive similarities"), Search(0.05, 2.0, log=True)
    ] = 1.0
    queue_size: Annotated[
        int,
        Field(
            ge=0,
            description="rows of earlier steps that are candidates beside the batch; needs similarity='cosine' and an "
            "objective that takes further candidates",
        ),
        Added(),
    ] = 0
    weight: Annotated[
        str | None, Field(description="weights of the negatives, a name of the registry's kind 'weight'")
    ] = None
    weight_options: Annotated[dict[str, Any], Field(default_factory=dict, description="settings of the weight")]
    transform: Annotated[
        str | None,
        Field(description="of both sides before similarity, a name of the registry's kind 'transform'"),
        Added(),
    ] = None
    transform_options: Annotated[
        dict[str, Any], Field(default_factory=dict, description="settings of the transform"), Added()
    ]
    regularisers: Annotated[
        dict[str, float | dict[str, Any]],
        Field(
            default_factory=dict,
            description="added to the contrast: names of the registry's kind 'regulariser' with a coefficient, or with "
            "settings, the coefficient among them",
        ),
        Added(),
    ]


def contrastive_term(
    config: ContrastConfig, dim: int, objective: dict[str, Any] | None = None, **other: Any
) -> ContrastiveTerm:
    """The term that a configuration describes.

    Args:
        config: of the model.
        dim: D, the width of what is contrasted.
        objective: the model's own settings of the objective, where it has them, which ``objective_options`` override.
        other: settings of the term that differ from the model's, e.g. ``temperature=1.0``.
    """
    own = {k: v for k, v in (objective or {}).items() if k != "if_none" and k in registry.part_class("objective", config.objective).model_fields}
    tree = {"similarity": config.similarity, "temperature": config.temperature, "queue_size": config.queue_size}
    tree["objective"] = {"name": config.objective, **own, **config.objective_options}
    for kind in ("weight", "transform"):
        name = getattr(config, kind)
        tree[kind] = None if name is None else {"name": name, **getattr(config, f"{kind}_options")}
    return ContrastiveTerm(Contrast.of({**tree, **other}), dim=dim, if_none=(objective or {}).get("if_none", "error"))


def stream(term: ContrastiveTerm, generators: Generators, of_rank: bool = False) -> torch.Generator | None:
    """What a term draws with, where one of its parts draws.

    Args:
        of_rank: the rows that are contrasted are this rank's own; of others all ranks draw the same.
    """
    if not term.draws:
        return None
    return generators.of_rank("contrast") if of_rank else generators["contrast"]
