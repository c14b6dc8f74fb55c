"""The parts of a model's contrastive term, chosen by configuration: objective, similarity, weights of candidates."""

from __future__ import annotations

import warnings
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import BeforeValidator, Field

from recgraph import registry
from recgraph.config import Added, ConfigError, Search
from recgraph.contrast.term import ContrastiveTerm, TermConfig
from recgraph.models.settings import ModelConfig
from recgraph.rng import Generators

__all__ = [
    "AugmentationSpec",
    "ContrastConfig",
    "check_pairs",
    "contrastive_term",
    "stream",
    "warn_of_pairs",
]

#: a name, or a mapping with ``name`` and settings; an augmentation itself is read as its specification
AugmentationSpec = Annotated[
    str | dict[str, Any], BeforeValidator(lambda value: registry.specification("augmentation", value))
]


class ContrastConfig(ModelConfig):
    """Settings that all contrastive models share, on both lines; a model changes the defaults."""

    #: the weights, as far as a model has them, of the contrasts that these settings describe
    of_weight: ClassVar[tuple[str, ...]] = ("contrast_weight",)

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

    def idle(self) -> frozenset[str]:
        weights = [getattr(self, name) for name in self.of_weight if name in type(self).model_fields]
        own = ContrastConfig.model_fields if weights and not any(weights) else ()
        return super().idle().union(own)

    @property
    def further_candidates(self) -> tuple[str, str] | None:
        """The setting by which anchors have candidates that are no anchors, and that by which they have none; None: no
        setting does."""
        return (f"queue_size = {self.queue_size}", "queue_size = 0") if self.queue_size else None


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
    known = registry.settings_of(registry.load("objective", config.objective))
    own = {name: value for name, value in (objective or {}).items() if name in known}
    # a part's settings are its options here; all else has the same name in both
    settings = {name: getattr(config, name.replace("_settings", "_options")) for name in TermConfig.model_fields}
    settings["objective_settings"] = {**own, **config.objective_options}
    return ContrastiveTerm(dim=dim, **{**settings, **other})


def stream(term: ContrastiveTerm, generators: Generators, of_rank: bool = False) -> torch.Generator | None:
    """What a term draws with, where one of its parts draws.

    Args:
        of_rank: the rows that are contrasted are this rank's own; of others all ranks draw the same.
    """
    if not term.draws:
        return None
    return generators.of_rank("contrast") if of_rank else generators["contrast"]


def check_pairs(config: ContrastConfig) -> None:
    """Refuse an objective that needs rows in pairs where a setting adds candidates.

    Raises:
        ValueError: the objective is such a one.
    """
    further = config.further_candidates
    if further is not None and registry.load("objective", config.objective).needs_pairs:
        raise ConfigError(
            f"objective = {config.objective!r} contrasts two views of the same rows and takes no further candidates, "
            f"as {further[0]} gives; use {further[1]} or another objective"
        )


# pairs of a step that are announced before training, and seconds of a core that one takes: plain, with a learned weight
_LONG = 10**10
_PAIR_S, _LEARNED_PAIR_S = 1e-8, 6e-8


def warn_of_pairs(config: ContrastConfig, n: int, directions: int = 1, batches: bool = True) -> None:
    """Warn before a training whose steps contrast all n nodes with so many candidates that they take minutes.

    Args:
        directions: contrasts of a step.
        batches: whether the model could train by batches of nodes.
    """
    chosen = config.objective_options.get("n_candidates")
    candidates = n if chosen is None else min(int(chosen), n)
    if (pairs := directions * n * candidates) < _LONG:
        return
    seconds = pairs * (_LEARNED_PAIR_S if config.weight == "learned" else _PAIR_S)
    fix = "objective_options={'n_candidates': 4096}, which estimates the sum over candidates from so many drawn ones"
    warnings.warn(
        f"each step contrasts {n:,} nodes with {candidates:,} candidates, {pairs:.2g} pairs: about {seconds / 60:,.0f} "
        f"minutes of a core. Use {fix if chosen is None else 'a smaller n_candidates'}"
        f"{', or mini_batch=True' if batches else ''}",
        stacklevel=4,
    )
