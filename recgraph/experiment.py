"""One call from a model and a split to a run: fit, evaluate, recommend, save."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from recgraph import registry
from recgraph.config import Config, ConfigError, distribute
from recgraph.data.graph_card import find_graph_card
from recgraph.data.hetero import HeteroGraph
from recgraph.data.part import Part
from recgraph.data.split import SealedSplit, Split
from recgraph.evaluate.evaluator import split_metric, validation
from recgraph.fitting import Request, alone, build, fit_built, new_record
from recgraph.models.base import Model, Space, TrainableModel
from recgraph.models.base_graph import GraphModel, GraphSpace
from recgraph.node_fit import check_task, train_nodes
from recgraph.node_run import NodeRun, ProbeSettings
from recgraph.pretrained import InitItemsConfig, Scale, initial_items
from recgraph.run import DataConfig, Run
from recgraph.train.config import GraphTrainConfig, TrainConfig
from recgraph.train.device import pick_device
from recgraph.train.observers import Observer

__all__ = ["fit", "model_from", "parts_of", "train"]


def fit(
    model: Model | str,
    split: Split | SealedSplit,
    *,
    seed: int,
    out: str | Path | None = None,
    device: str | None = None,
    resume: bool = False,
    progress: bool | None = None,
    fit_on: Literal["train", "train+valid"] = "train",
    observers: tuple[Observer, ...] = (),
    init_items: Any = None,
    init_items_scale: Scale = "initial",
    source: Mapping[str, Any] | None = None,
    **training: Any,
) -> Run:
    """Fit a model to the training part of a split, selected on its validation part.

    Args:
        model: with its settings, not built; or a name of the registry.
        split: the test part is sealed before anything is read.
        seed: of everything random in the run.
        out: folder of the run (log, checkpoints, bundle, record); None keeps all in memory.
        device: ``"cpu"``, ``"cuda"``, ``"cuda:1"``; None: a GPU with CUDA where there is one, else the CPU (see
            :func:`recgraph.train.device.pick_device`).
        resume: go on from the newest checkpoint in ``out``; a run that is finished is given back as it is.
        progress: show a progress bar; None: on a terminal.
        fit_on: ``"train+valid"`` for a last fit before the test, without a validation (``metric="loss"``).
        observers: told of every epoch.
        init_items: where the vectors of items begin: a run, a recommender or an embedder, the folder of one, a frame of
            ids and vectors, or a mapping id -> vector, all matched by id; see :class:`recgraph.pretrained.InitItems`.
        init_items_scale: ``"initial"`` gives them the random vectors' standard deviation; ``"given"``: as they are.
        source: where the split is from, so that the run can be opened without it: ``dataset``, the name of a data card,
            and ``settings`` of :class:`recgraph.run.DataConfig`.
        training: settings of :class:`recgraph.train.config.TrainConfig`, for models that are trained.

    Raises:
        ConfigError: a setting that does not exist or is out of range.
        ValueError: ``out`` holds another run, or one and ``resume`` is not asked for; another process trains into it;
            ``init_items`` does not fit.
    """
    made, config = model_from(model), TrainConfig.of(training)
    if training and not isinstance(made, TrainableModel):
        raise ConfigError(
            f"{type(made).__name__} is fitted in one step and takes no settings of training: leave out "
            f"{', '.join(training)}"
        )
    folder = None if out is None else Path(out)
    return _fit(
        made,
        split,
        Request(config, seed, folder, device, resume, progress, observers),
        fit_on,
        (init_items, init_items_scale),
        source,
    )


def train(
    model: str,
    dataset: str,
    out: str | Path | None,
    *,
    settings: Mapping[str, Any],
    seed: int,
    device: str | None = None,
    resume: bool = False,
    progress: bool | None = None,
) -> Run | NodeRun:
    """Train a model on a data set of the catalogue: what ``recgraph train`` does.

    On a graph with classes of nodes it is the graph that is trained on, and the run is a :class:`NodeRun`.

    Args:
        model: name of the registry.
        dataset: name of a data card.
        out: folder of the run; refused where it exists, unless ``resume``. None keeps all in memory.
        settings: one flat namespace of the model's, the training's and the data's (or the probe's) settings.
        seed: of the run.

    Raises:
        ConfigError: a setting that does not exist or is out of range.
        ValueError: the model is not for the data set's task, ``out`` holds another run, or another process trains into
            it.
    """
    cls, card = registry.load("model", model), find_graph_card(dataset)
    check_task(cls, dataset, card)
    of_nodes = issubclass(cls, GraphModel)
    training: type[TrainConfig] = GraphTrainConfig if of_nodes else TrainConfig
    parts = distribute(settings, {"model": cls.Config, **parts_of(cls)})
    folder = None if out is None else Path(out)
    request = Request(training.of(parts.get("training")), seed, folder, device, resume, progress)
    if of_nodes:
        assert card is not None
        return train_nodes(cls, parts["model"], parts["probe"], dataset, card, request)
    made, data = cls(**parts["model"]), DataConfig.of(parts["data"])
    source = {"dataset": dataset, "settings": data.model_dump(mode="json")}
    items = InitItemsConfig.of(parts.get("items"))
    return _fit(made, data.split_of(dataset), request, "train", (items.init_items, items.init_items_scale), source)


def parts_of(model: type[Model]) -> dict[str, type[Config]]:
    """What can be set of a run beside the model's own settings, part by part."""
    if issubclass(model, GraphModel):
        return {"training": GraphTrainConfig, "probe": ProbeSettings}
    if not issubclass(model, TrainableModel):
        return {"data": DataConfig}
    return {"training": TrainConfig, "items": InitItemsConfig, "data": DataConfig}


def model_from(model: Model | str) -> Model:
    """A model that is not built yet, from a name or as it is.

    Raises:
        ValueError: it is built already.
    """
    made: Model = registry.load("model", model)() if isinstance(model, str) else model
    if made.space is not None:
        raise ValueError(f"model {type(made).__name__} is built already; give a new one, e.g. {type(made).__name__}()")
    return made


def _fit(
    model: Model,
    split: Split | SealedSplit,
    request: Request,
    fit_on: Literal["train", "train+valid"],
    init_items: tuple[Any, Scale],
    source: Mapping[str, Any] | None = None,
) -> Run:
    sealed = split.sealed()
    part = (
        sealed.train
        if fit_on == "train"
        else sealed.unseal(f"fit {type(model).__name__} on train+valid").fit_part(fit_on)
    )
    data = {
        **(source or {}),
        "split": split.name,
        "split_params": split.params,
        "split_hash": split.hash,
        "n_users": split.n_users,
        "n_items": split.n_items,
    }
    record = new_record(model, request, fit_on, data)
    record["unsealed"] = list(sealed.unsealed_reasons)
    begin = None
    if init_items[0] is not None:
        found = initial_items(init_items[0], sealed, init_items[1], fit_on)
        record["init_items"], begin = found.record, found.write
    with alone(request, record) as is_done:
        if not is_done:
            return _made(model, sealed, part, request, record, begin)
    assert request.folder is not None
    done = Run.open(request.folder, sealed)
    assert isinstance(done, Run)
    done.model.to(pick_device(request.device))
    return done


def _made(
    model: Model,
    sealed: SealedSplit,
    part: Part,
    request: Request,
    record: dict[str, Any],
    begin: Callable[[Model], None] | None,
) -> Run:
    config = request.config

    def validate() -> dict[str, float]:
        return validation(model, sealed.valid, config.metric, seen=config.select_seen, fit_part=part)

    with_validation = isinstance(model, TrainableModel) and config.metric != "loss" and record["fitted_on"] == "train"
    if with_validation:
        split_metric(config.metric)  # a name that does not exist is an error before anything is computed
        if not len(sealed.valid):
            raise ValueError(
                f"metric = {config.metric!r} needs users to validate on, and the valid part of split {sealed.name!r} "
                "is empty; use metric='loss' or another split"
            )
    build(model, _space(model, sealed, part), request, record, begin)
    fit_built(model, part, request, record, validate if with_validation else None)
    run = Run(model, sealed, record, request.folder)
    if request.folder is not None:
        run.save(request.folder / "bundle")
        run.write_record()
    return run


def _space(model: Model, split: SealedSplit, part: Part) -> Space:
    """The sizes; for a model that reads a graph also that of what is fitted to, with all side information."""
    sizes = {"n_users": split.n_users, "n_items": split.n_items}
    if not model.reads_graph:
        return Space(**sizes)
    return GraphSpace(**sizes, graph=HeteroGraph.from_interactions(split.interactions, part))
