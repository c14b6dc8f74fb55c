"""Settings of training, and the device and precision of a run through HF Accelerate."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from copy import copy
from typing import Annotated, Any, Literal, Self

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from pydantic import Field, create_model

from recgraph.config import Config, ConfigError, Search, unknown_key
from recgraph.data.part import Part
from recgraph.models.base import Model, TrainableModel

#: the schedules that bring the learning rate down to 0 over a number of epochs
FALLING = frozenset({"linear", "cosine"})
_log = logging.getLogger(__name__)


_Epochs = Annotated[int, Field(ge=0, description="epochs at most")]
_Seconds = Annotated[
    float,
    Field(
        ge=0,
        description="an epoch that ends within so many seconds after a checkpoint makes none but the last",
    ),
]


class TrainConfig(Config):
    """How a model is trained; the same names for every model."""

    batch_size: Annotated[
        int,
        Field(ge=1, description="samples a step (sequences in the causal regime)"),
        Search(choices=(64, 128, 256, 512)),
    ] = 128
    learning_rate: Annotated[
        float, Field(gt=0, description="of Adam"), Search(3e-4, 1e-2, log=True)
    ] = 1e-3
    weight_decay: Annotated[
        float, Field(ge=0, description="L2 penalty of Adam, or AdamW's decay")
    ] = 0.0
    optimiser: Annotated[Literal["adam", "adamw"], Field(description="of dense parameters")] = (
        "adam"
    )
    adam_beta2: Annotated[
        float, Field(ge=0, lt=1, description="decay of Adam's second moments")
    ] = 0.999
    sparse_tables: Annotated[
        bool,
        Field(
            description="whether tables of which a step touches few rows have sparse gradients, and SparseAdam steps "
            "these rows alone; weight_decay and clip_norm do not reach them"
        ),
    ] = False
    max_epochs: _Epochs = 100
    patience: Annotated[
        int | None,
        Field(
            ge=1,
            description="validations without a better metric before training stops; none: never",
        ),
    ] = 10
    metric: Annotated[
        str,
        Field(
            description="what selects the best epoch: a validation metric such as 'ndcg@10', or 'loss'; 'last': "
            "nothing, the last epoch is kept"
        ),
    ] = "ndcg@10"
    select_seen: Annotated[
        Literal["auto", "keep", "exclude"],
        Field(
            description="whether seen items are candidates in the validation that selects; auto: if users buy again"
        ),
    ] = "auto"
    validate_every: Annotated[
        int, Field(ge=1, description="epochs between validations; the last epoch is validated, too")
    ] = 1
    clip_norm: Annotated[
        float | None, Field(gt=0, description="largest gradient norm; none: no clipping")
    ] = None
    schedule: Annotated[
        Literal["constant", "linear", "cosine", "step"],
        Field(description="of the learning rate after the warm-up"),
    ] = "constant"
    drop_after: Annotated[
        tuple[Annotated[int, Field(ge=1)], ...],
        Field(
            validate_default=True,
            description="the epochs after each of which the step schedule multiplies the learning rate by drop_factor",
        ),
    ] = ()
    drop_factor: Annotated[
        float,
        Field(gt=0, lt=1, description="what the step schedule multiplies the learning rate by"),
    ] = 0.1
    schedule_epochs: Annotated[
        int | None,
        Field(
            ge=1,
            description="epochs over which a linear or cosine schedule goes down to 0, where more epochs may follow "
            "max_epochs; none: max_epochs",
        ),
    ] = None
    warmup_steps: Annotated[
        int, Field(ge=0, description="batches over which the learning rate rises from 0")
    ] = 0
    accumulate: Annotated[
        int, Field(ge=1, description="batches whose mean gradient makes a step")
    ] = 1
    precision: Annotated[Literal["no", "bf16"], Field(description="mixed precision")] = "no"
    checkpoint_every: Annotated[
        int | None,
        Field(
            ge=1, description="batches between checkpoints inside an epoch; none: at its end alone"
        ),
    ] = None
    checkpoint_seconds: _Seconds = 0.0
    compile: Annotated[
        bool,
        Field(
            description="on an accelerator: compile encoder, loss and contrasts of a sequence model"
        ),
    ] = False
    tensorboard: Annotated[
        bool, Field(description="also write TensorBoard logs (extra: track)")
    ] = False
    track: Annotated[
        Literal["mlflow", "wandb"] | None,
        Field(
            description="also tell MLflow or Weights & Biases, set by their environment variables (extra: track)"
        ),
    ] = None

    def decided(self, part: Part) -> Self:
        """With ``select_seen`` decided by what the model is fitted on."""
        if self.select_seen != "auto":
            return self
        if part.repeats < 0.1:
            return self.model_copy(update={"select_seen": "exclude"})
        message = "users buy again, in %.0f %% of the interactions: select_seen=keep; recommend with --keep-seen, too"
        _log.warning(message, 100 * part.repeats)
        return self.model_copy(update={"select_seen": "keep"})


def refuse_training(model: type[Model], names: Iterable[str]) -> None:
    """Refuse settings of training for a model that is fitted in one step; other names are let
    through.
    """
    wrong = sorted({*names} & TrainConfig.model_fields.keys() - model.Config.model_fields.keys())
    if wrong and not issubclass(model, TrainableModel):
        raise ConfigError(f"{model.__name__} is fitted in one step: leave out {', '.join(wrong)}")


def distribute(
    values: Mapping[str, Any], parts: Mapping[str, type[Config]]
) -> dict[str, dict[str, Any]]:
    """Divide one mapping of settings among several configurations, by the names of their fields."""
    shared: dict[str, dict[str, Any]] = {}
    owners: dict[str, str] = {}
    for part, cls in parts.items():
        shared[part] = {}
        owners = dict.fromkeys(cls.model_fields, part) | owners  # the first that has a field has it
    for key, value in values.items():
        if key not in owners:
            raise ConfigError(unknown_key(key, *parts.values()))
        shared[owners[key]][key] = value
    return shared


def share_out(
    model: type[Model], settings: Mapping[str, Any], parts: Mapping[str, type[Config]]
) -> dict[str, dict[str, Any]]:
    """Share one flat namespace of settings of a model's run out, as :func:`distribute` does."""
    refuse_training(model, settings)
    return distribute(settings, parts)


def training_config(model: type[TrainableModel]) -> type[TrainConfig]:
    """The settings of training on a log, with the defaults and search ranges that are a model's
    own.
    """
    if not model.training_defaults:
        return TrainConfig
    fields: dict[str, Any] = {}
    for name, (default, search) in model.training_defaults.items():
        field = copy(TrainConfig.model_fields[name])
        field.default = default
        field.metadata = [search, *field.metadata]  # the first search range counts
        fields[name] = field.annotation, field
    return create_model(
        TrainConfig.__name__, __base__=TrainConfig, __doc__=TrainConfig.__doc__, **fields
    )


class GraphTrainConfig(TrainConfig):
    """Training on a graph without labels: the loss selects, or nothing, and an epoch may be a
    single step.
    """

    max_epochs: _Epochs = 5000
    patience: Annotated[
        int | None,
        Field(
            ge=1,
            description="epochs in a row without a lower loss before training stops; none: never, as with metric=last",
        ),
    ] = 30
    metric: Annotated[
        Literal["loss", "last"],
        Field(description="what selects the epoch whose weights are kept; last: nothing does"),
    ] = "loss"
    checkpoint_seconds: _Seconds = 30.0


def pick_device(device: str | None = None) -> torch.device:
    """The device with a name, or the default device.

    Args:
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``; None: ``"cuda"`` where there is one,
            else ``"cpu"``. ``"mps"`` is never picked, as it lacks the float64 that views and
            sampled losses draw with.
    """
    names = ["cpu"]
    if torch.cuda.is_available():
        names = ["cuda", "cpu", *map("cuda:{}".format, range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        names.append("mps")
    if device is None:
        device = names[0]
    if device not in names:
        raise ValueError(f"device = {device!r} is not there; this machine has {', '.join(names)}")
    return torch.device(device)


def make_accelerator(device: str | None = None, precision: str = "no") -> Accelerator:
    """An accelerator for one run."""
    picked = pick_device(device)
    # Accelerate keeps one state a process and refuses another device or precision; each run makes a
    # new one
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(mixed_precision=precision, cpu=picked.type == "cpu")
    # Accelerate itself knows only "the GPU of this process"
    if accelerator.device.type != picked.type or picked.index is not None:
        accelerator.state.device = picked
        # whence Accelerate refreshes its state, at the first autocast for one
        PartialState().device = picked
    return accelerator
