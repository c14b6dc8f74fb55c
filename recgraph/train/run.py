"""A run: a fitted model, the data that it was fitted to, and the record of how."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, cast

from pydantic import BeforeValidator, Field

from recgraph.config import checked
from recgraph.data.catalog import load_graph, load_node_task
from recgraph.data.item_features import ItemColumns
from recgraph.data.split import FitPart, Interactions, SealedSplit, Split, check_open
from recgraph.data.strategies import EVERYTHING
from recgraph.evaluate.evaluator import evaluate
from recgraph.evaluate.nodes import NodeResults, ProbeConfig, evaluate_nodes
from recgraph.evaluate.protocol import Ties, is_leaked
from recgraph.evaluate.rerank import Reranker, reranker_of
from recgraph.evaluate.results import Results
from recgraph.graph.hetero import as_task
from recgraph.graph.node_task import NodeTask
from recgraph.models.base import Model
from recgraph.parallel import Engine
from recgraph.ranks import first_does, is_first, together
from recgraph.serve.bundle import Embedder, bundle_of
from recgraph.serve.recommender import Recommender
from recgraph.train.fitting import folder_of
from recgraph.train.observers import Observer
from recgraph.train.record import SELECTION, Plot, RunRecord, curves, run_html, run_text
from recgraph.train.settings import (
    ProbeSettings,
    check_features,
    check_split,
    features_of,
    split_again,
)
from recgraph.train.update import UpdateOptions, update

if TYPE_CHECKING:
    import polars as pl

Seen = Literal["keep", "exclude", "both"]
Part = Literal["valid", "test"]
#: conventions for seen items, as a name and one by one
_SEEN: Mapping[Seen, tuple[Literal["keep", "exclude"], ...]] = {
    "keep": ("keep",),
    "exclude": ("exclude",),
    "both": ("keep", "exclude"),
}
#: what of a split is known of the users of a part
_HISTORY: Mapping[Part, str] = {"valid": "train", "test": "train+valid"}
_Share = Annotated[float, Field(ge=0, le=1)]
_log = logging.getLogger(__name__)


class BaseRun:
    """What runs of both tasks have: a record, and a folder or None."""

    model: Any

    def __init__(self, record: RunRecord, folder: Path | None = None) -> None:
        self.record = record
        self.folder = folder

    @property
    def history(self) -> list[dict[str, Any]]:
        """One row an epoch; empty for closed-form models."""
        return self.record.history

    def save(self, folder: str | Path) -> None:
        """Write a bundle, which :func:`recgraph.load` reads; of several processes the first does,
        and none waits.
        """

    def write(self) -> None:
        """Write the bundle and the record into the run's folder, where it has one, also over those
        of a shorter run; of several processes the first does, and the others wait."""
        if self.folder is not None:
            first_does(partial(self._write, self.folder))

    def _write(self, folder: Path) -> None:
        self.save(folder / "bundle")
        self.write_record()
        _log.info("run saved in %s", folder)

    def write_record(self) -> None:
        """Write ``record.json`` again, where the run has a folder; of several processes the first
        does.
        """
        if self.folder is not None and is_first():
            self.record.write(self.folder)

    def plot(self) -> Plot:
        """The learning curves, for a notebook, or a file by their ``save("run.svg")`` or
        ``save("run.html")``: loss terms and the metric that selects, by epoch, the best one marked.
        """
        return curves(self.record, self.model)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({run_text(self.record, self.folder)})"

    def _repr_html_(self) -> str:
        return run_html(self.record, self.folder)

    def _add_results(self, name: str, results: Results | NodeResults) -> None:
        self.record.results = {**self.record.results, name: results.to_dict()}
        self.write_record()


class NodeRun(BaseRun):
    """A model that was fitted to a graph, without labels, and the embeddings of its nodes.

    Attributes:
        embedder: the embeddings with their ids, and the model.
        record: a :class:`recgraph.train.record.RunRecord`.
        folder: of the run, or None.
    """

    def __init__(self, embedder: Embedder, record: RunRecord, folder: Path | None = None) -> None:
        super().__init__(record, folder)
        self.embedder = embedder

    @property
    def model(self) -> Model:
        """The fitted model; of a run that was opened it is built again when it is first read."""
        return self.embedder.model

    def embeddings(self) -> pl.DataFrame:
        """One row a node: its id in a column that is called like the node type, and
        ``embedding``.
        """
        return self.embedder.embeddings()

    @checked
    def evaluate(
        self,
        task: Annotated[NodeTask | None, BeforeValidator(as_task)] = None,
        *,
        probe: ProbeConfig | None = None,
        seed: int = 0,
    ) -> NodeResults:
        """Probes and clustering of the embeddings. This reads the labels for the first time; logged
        and recorded.

        Args:
            task: classes of the nodes, or a graph of PyTorch Geometric or DGL that has them; by
                default those of the run's data set.
            probe: settings of the linear probe; by default those that the run was made with.
            seed: of the probes, the same for all trainings that are to be compared.
        """
        check_open()
        if task is None:
            task = self._own_task()
        target, n_nodes = self.embedder.target, self.embeddings().height
        if (task.target, len(task.labels)) != (target, n_nodes):
            raise ValueError(
                f"task classifies {len(task.labels)} {task.target!r} nodes, but the run embeds {n_nodes} {target!r}"
            )
        reason = f"evaluate {self.record.model} on the classes of {target!r}"
        self.record.unsealed = [*self.record.unsealed, reason]
        _log.warning("labels of task %s unsealed: %s", task.hash[:12], reason)
        probe = probe or ProbeSettings.of(self.record.evaluation).probe
        results = evaluate_nodes(self.embedder.vectors, task, probe=probe, seed=seed)
        self._add_results("nodes", results)
        return results

    def _own_task(self) -> NodeTask:
        """The classes of the data set that the run was fitted to."""
        data = self.record.data
        if data.dataset is None or load_graph(data.dataset).hash != data.graph_hash:
            raise ValueError(
                f"task: {data.title} is not the run's; give one: rg.Run.open(RUN).evaluate(data)"
            )
        return load_node_task(data.dataset)

    def save(self, folder: str | Path) -> None:
        if is_first():
            self.embedder.save(folder)

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a finished run."""
        folder = Path(folder)
        record = RunRecord.read(folder)
        return cls(Embedder.load(folder / "bundle"), record, folder)


class Run(BaseRun):
    """A model that recommends, with the split it was fitted on.

    Attributes:
        model: fitted.
        split: sealed; :meth:`evaluate` on the test part unseals it, and the record says so.
        record: a :class:`recgraph.train.record.RunRecord`: configuration, seed, data, cost, the
            curve, results.
        folder: of the run, or None.

    Args:
        log: what the users are known to have done, of a run that is not opened from a folder: all
            of it where the model was fitted on all, by default what they did in train and valid.
    """

    def __init__(
        self,
        model: Model,
        split: SealedSplit | None,
        record: RunRecord,
        folder: Path | None = None,
        log: Interactions | None = None,
    ) -> None:
        super().__init__(record, folder)
        self.model = model
        self.split = split
        self._known = log

    @checked
    def evaluate(
        self,
        part: Part = "test",
        seen: Seen = "both",
        cutoffs: Sequence[int] | None = None,
        metrics: Sequence[str] | None = None,
        *,
        allow_fitted: bool = False,
        engine: Engine | None = None,
        rerank: str | Mapping[str, Any] | Reranker | None = None,
        ties: Ties = "seeded permutation",
    ) -> Results:
        """Metrics by full ranking, both conventions for seen items from one pass.

        Of several processes that a launcher started all must call it: each ranks for a share of the
        users.

        Args:
            part: ``"test"`` (unseals it; logged and recorded) or ``"valid"``; the run must not be
                fitted on it.
            seen: whether items of the history stay candidates.
            cutoffs: list lengths; by default 5, 10 and 20, or those that ``metrics`` name where
                each of them does.
            metrics: names, e.g. ``"ndcg"`` or ``"ndcg@10"``; by default
                :data:`recgraph.evaluate.metrics.DEFAULT_METRICS`.
            allow_fitted: also rank a part that the run was fitted on: how well it fits, not how
                well it recommends. The part it was fitted on is read with the test part, so this
                unseals the test part.
            engine: ranks for shares of the users, see :mod:`recgraph.parallel`; None: this process.
            rerank: a re-ranker that picks the lists, its name or a mapping with its settings; the
                protocol records it, and the results are kept beside those of the model, as
                ``"test/mmr"``.
            ties: one drawn order of equal scores, or ``"expectation"``, over all orders; the
                protocol records it.

        Raises:
            ValueError: no such part or metric, the run was fitted on the part, or it was opened
                without its data.
        """
        fitted_on = self.record.fitted_on
        leaked = is_leaked(part, fitted_on)
        if leaked and not allow_fitted:
            raise ValueError(
                f"part = {part!r}: the run was fitted on {fitted_on}; evaluate run.selection or "
                "another run, or give allow_fitted=True"
            )
        name: str = part
        picks = None
        if rerank is not None:  # beside the results of the model's own ranking
            picks = reranker_of(rerank)
            name = f"{part}/{picks.specification['name']}"
        split = self._require_split()
        opened: Split | SealedSplit = split
        if part == "test" or leaked:
            opened = self._unseal(split, part)
        log = split.interactions
        with together():
            results = evaluate(
                self.model,
                opened.test if part == "test" else opened.valid,
                seen=_SEEN[seen],
                cutoffs=cutoffs,
                metrics=metrics,
                ties=ties,
                fit_part=opened.fit_part(cast(FitPart, fitted_on)),
                split=split,
                part=part,
                fitted_on=fitted_on,
                history=_HISTORY[part],
                allow_fitted=allow_fitted,
                engine=engine,
                rerank=picks,
                item_columns=ItemColumns(log.items, log.item_features, log.columns.item),
            )
        self._add_results(name, results)
        return results

    def _unseal(self, split: SealedSplit, part: Part) -> Split:
        """The split with its test part; the record says so, and keeps all earlier reasons: that of
        a run which was opened again has some that the split has not, and the other way round."""
        before = len(split.unsealed_reasons)
        opened = split.unseal(f"evaluate {type(self.model).__name__} on {part}")
        known, reasons = self.record.unsealed, split.unsealed_reasons
        earlier = [reason for reason in reasons[:before] if reason not in known]
        self.record.unsealed = [*known, *earlier, *reasons[before:]]
        self.write_record()
        return opened

    @cached_property
    def selection(self) -> Run | None:
        """The run on the training part that chose the number of epochs, of one fitted with
        ``refit=True``; else None.

        It stands for this one in evaluations: the same settings and epochs, fitted to less.
        """
        if self.record.selection is None or self.folder is None:
            return None
        run = Run.open(self.folder / SELECTION, self.split)
        assert isinstance(run, Run)
        return run

    @cached_property
    def recommender(self) -> Recommender:
        """The model with its ids and what its users have seen: train and valid, and test where it
        was fitted on all.
        """
        if self._known is None and self.folder is not None:  # it was opened
            return Recommender.load(self.folder / "bundle")
        record = self.record.only(
            "model",
            "config",
            "training",
            "seed",
            "fitted_on",
            "data",
            "init_items",
            "results",
            "provenance",
        )
        selection = self.record.selection
        if selection is not None:  # an update is validated by its metric
            record["selection"] = {"training": selection["training"]}
        log = self._known
        if log is None:
            log = self._require_split().interactions
        return Recommender.for_log(self.model, log, record)

    def recommend(
        self, users: Any = None, histories: Any = None, k: int = 10, **options: Any
    ) -> Any:
        """See :meth:`recgraph.serve.recommender.Recommender.recommend`."""
        return self.recommender.recommend(users=users, histories=histories, k=k, **options)

    def similar(self, items: Any = "all", k: int = 10, **options: Any) -> Any:
        """See :meth:`recgraph.serve.recommender.Recommender.similar`."""
        return self.recommender.similar(items, k, **options)

    def item_vectors(self) -> Any:
        """See :meth:`recgraph.serve.recommender.Recommender.item_vectors`."""
        return self.recommender.item_vectors()

    def user_vectors(self, users: Any = None, histories: Any = None) -> Any:
        """See :meth:`recgraph.serve.recommender.Recommender.user_vectors`."""
        return self.recommender.user_vectors(users=users, histories=histories)

    @checked
    def export(self, folder: str | Path) -> dict[str, Any]:
        """See :meth:`recgraph.serve.recommender.Recommender.export`."""
        return self.recommender.export(folder)

    def save(self, folder: str | Path) -> None:
        if is_first():
            self.recommender.save(folder)

    @checked
    def update(
        self,
        new_log: Any,
        *,
        item_features: Any = None,
        out: str | Path | None = None,
        epochs: Annotated[int, Field(ge=1)] = 2,
        replay: _Share = 0.1,
        learning_rate: Annotated[float, Field(gt=0)] | None = None,
        valid: Annotated[float, Field(ge=0, le=0.9)] = 0.1,
        fold_in: bool = True,
        force: bool = False,
        seed: Annotated[int, Field(ge=0)] | None = None,
        device: str | None = None,
        progress: bool | None = None,
        observers: tuple[Observer, ...] = (),
    ) -> Run:
        """Take in a new log, with its new users and items -> a new run; this one stays as it is.

        Ids keep their indices, new ones follow. A trained model goes on from its weights, with the
        state of its optimisers where the run's folder has a checkpoint; a model in closed form is
        fitted again on everything. The run goes on from what its recommender knows: the test part
        of a split is not in it.

        Args:
            new_log: new interactions: a log, a frame with the run's column names (or ``user``,
                ``item`` and ``timestamp``), or files of them. Each user's follow what is known of
                the user.
            item_features: a frame or a file of features of items, one row an item, beside those of
                ``new_log``.
            out: folder of the new run; written only when the update is accepted. None keeps it in
                memory.
            epochs: over samples with new targets and replayed ones; the best by validation is kept.
            replay: the share of old samples that is trained on again.
            learning_rate: by default a quarter of that of the run's training; an update of an
                update keeps the rate.
            valid: the newest share of the new log, validated on and not trained on; without times,
                that of each user.
            fold_in: whether that slice becomes part of the users' histories afterwards.
            force: keep a result that is worse than what there was, or not validated.
            seed: of everything random; by default the run's.
            device, progress, observers: see :func:`recgraph.train.fit.fit`.

        Raises:
            UpdateRefused: the result is worse on the slice than this run; names both numbers, and
                nothing is written.
            ValueError: the model cannot be updated (:attr:`Model.updated_by`), or ids are of
                another type than its own.
        """
        options = UpdateOptions(
            item_features=item_features,
            epochs=epochs,
            replay=replay,
            learning_rate=learning_rate,
            valid=valid,
            fold_in=fold_in,
            force=force,
            seed=seed,
            device=device,
            progress=progress,
            observers=observers,
        )
        folder = folder_of(out)
        checkpoint = None if self.folder is None else self.folder / "checkpoints"
        with together():
            recommender, record = update(self.recommender, new_log, options, folder, checkpoint)
        return Run.serving(recommender, record, folder)

    @classmethod
    def serving(
        cls, recommender: Recommender, record: RunRecord, folder: Path | None = None
    ) -> Run:
        """A run of a recommender, without a split: it recommends and can be updated."""
        run = cls(recommender.model, None, record, folder)
        run.recommender = recommender
        return run

    @classmethod
    @checked
    def of_bundle(cls, folder: str | Path) -> Run:
        """A run of a bundle, or of a run's folder without its data: it recommends and can be
        updated.
        """
        recommender = Recommender.load(folder)
        if bundle_of(folder) != Path(folder):
            return cls.serving(recommender, RunRecord.read(Path(folder)), Path(folder))
        model = recommender.model
        known = {
            "model": model.key(),
            "config": model.config.model_dump(mode="json"),
            "seed": model.seed or 0,
        }
        unknown = {"training": {}, "fitted_on": "unknown", "data": {}}
        return cls.serving(recommender, RunRecord(**{**unknown, **known, **recommender.record}))

    def _require_split(self) -> SealedSplit:
        if self.split is None:
            raise ValueError(
                "data: the run was opened without its data; give Run.open(folder, data)"
            )
        return self.split

    @classmethod
    @checked
    def open(
        cls,
        folder: str | Path,
        data: Interactions
        | Split
        | SealedSplit
        | str
        | Path
        | Mapping[str, str | Path]
        | None = None,
    ) -> Run | NodeRun:
        """Open a finished run; one that embedded the nodes of a graph is a :class:`NodeRun`.

        Args:
            folder: of the run.
            data: the split, or the log, it was fitted on; by default prepared again from the run's
                data set, or read again from its file, and checked. A path says where that file lies
                now, a mapping where ``train`` (the log), ``valid``, ``test``, ``item_features`` and
                ``user_features`` do, those that have moved.

        Raises:
            ValueError: not a finished run, the data is not what the run was fitted on, a file of
                features that its model reads has changed.
            FileNotFoundError: a file that it was made from is not there.
        """
        folder = Path(folder)
        record = RunRecord.read(folder)
        if record.task == "nodes":
            return NodeRun.open(folder)
        split: SealedSplit | None
        if isinstance(data, Interactions):
            data = Split.of(data, EVERYTHING)
        if isinstance(data, Split | SealedSplit):
            check_split(data, record.data)
            features = features_of(data)
            split = data.sealed()
        else:
            split, features = split_again(record.data, data)
        model = Recommender.load(folder / "bundle").model
        check_features(model, record.data.features, features)
        return cls(model, split, record, folder)
