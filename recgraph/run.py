"""A run: a fitted model with the data it was fitted on and the record of how."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from recgraph.base_run import BaseRun, read_record
from recgraph.config import Config
from recgraph.data.catalog import load_dataset
from recgraph.data.graph_card import find_graph_card
from recgraph.data.graph_catalog import load_split
from recgraph.data.split import SealedSplit, Split
from recgraph.evaluate.evaluator import evaluate
from recgraph.evaluate.protocol import is_leaked
from recgraph.evaluate.results import Results
from recgraph.models.base import Model
from recgraph.node_run import NodeRun
from recgraph.serve.recommender import Recommender, load

__all__ = ["DataConfig", "Run"]

Seen = Literal["keep", "exclude", "both"]


class DataConfig(Config):
    """How a data set is split for a run from the command line."""

    split: Annotated[
        str | None, Field(description="split strategy; none: what the data card says, else leave-one-out")
    ] = None
    split_options: Annotated[dict[str, Any], Field(default_factory=dict, description="its parameters")]
    split_seed: Annotated[int, Field(ge=0, description="of splits that draw")] = 0

    def split_of(self, dataset: str) -> Split:
        """The split of a data set of the catalogue.

        Raises:
            ValueError: options without a strategy, where the data card says both.
        """
        card = find_graph_card(dataset)
        if self.split is None and card is not None:
            if self.split_options:
                raise ValueError(f"split_options = {self.split_options} belong to a strategy; give split=... too")
            return load_split(dataset)
        return load_dataset(dataset).split(self.split or "leave-one-out", seed=self.split_seed, **self.split_options)


class Run(BaseRun):
    """A fitted model with the split it was fitted on.

    Attributes:
        model: fitted.
        split: sealed; :meth:`evaluate` on the test part unseals it, and the record says so.
        record: what was done: configuration, seed, data, cost, the curve, results; plain values.
        folder: where the run is kept, or None.
    """

    def __init__(
        self, model: Model, split: SealedSplit | None, record: dict[str, Any], folder: Path | None = None
    ) -> None:
        super().__init__(record, folder)
        self.model, self.split = model, split

    def evaluate(
        self,
        part: str = "test",
        seen: Seen = "both",
        cutoffs: tuple[int, ...] = (5, 10, 20),
        memory_mib: int | None = None,
        metrics: Sequence[str] | None = None,
        *,
        allow_fitted: bool = False,
    ) -> Results:
        """Metrics by full ranking, both conventions for seen items from one pass.

        Args:
            part: ``"test"`` (unseals it; logged and recorded) or ``"valid"``, of a run that was fitted on train.
            seen: whether items of the history stay candidates.
            cutoffs: list lengths.
            memory_mib: the most memory, in MiB, to be taken beyond the model and the data.
            metrics: names, e.g. ``"ndcg"``; by default those of :data:`recgraph.evaluate.evaluator.METRICS`.
            allow_fitted: also rank the valid part of a run that was fitted on train+valid: how well it fits, not how
                well it recommends. What it was fitted on is read with the test part, so that this unseals it.

        Raises:
            ValueError: no such part or metric, the run was fitted on the part, or it was opened without its data.
        """
        if part not in ("test", "valid"):
            raise ValueError(f"part = {part!r} must be 'test' or 'valid'")
        leaked = is_leaked(part, self.record["fitted_on"])
        if leaked and not allow_fitted:
            raise ValueError(
                f"part = {part!r}: this run was fitted on {self.record['fitted_on']}, so that it knows what is asked "
                "for; use evaluate('test'), or fit with fit_on='train'; allow_fitted=True measures how well it fits"
            )
        split = self._require_split()
        before = len(split.unsealed_reasons)
        if unsealed := part == "test" or leaked:
            whole = split.unseal(f"evaluate {type(self.model).__name__} on {part}")
            cases = whole.test if part == "test" else whole.valid
            fitted = whole.fit_part(self.record["fitted_on"])
        else:
            cases, fitted = split.valid, split.train
        results = evaluate(
            self.model,
            cases,
            seen=("keep", "exclude") if seen == "both" else (seen,),
            cutoffs=cutoffs,
            metrics=metrics,
            fit_part=fitted,
            memory_mib=memory_mib,
            split=split,
            part=part,
            fitted_on=self.record["fitted_on"],
            history="train" if part == "valid" else "train+valid",
            allow_fitted=allow_fitted,
        )
        self.record["results"][part] = results.to_dict()
        if unsealed:
            # the record of a run that was opened again knows of more than the split does
            known, reasons = self.record["unsealed"], split.unsealed_reasons
            earlier = [reason for reason in reasons[:before] if reason not in known]
            self.record["unsealed"] = [*known, *earlier, *reasons[before:]]
        self.write_record()
        return results

    @cached_property
    def recommender(self) -> Recommender:
        """The model with its ids and what its users have seen (train and valid)."""
        if self.folder is not None and (self.folder / "bundle").is_dir():
            return load(self.folder / "bundle")
        split = self._require_split()
        kept = ("model", "config", "training", "seed", "fitted_on", "data", "init_items", "results", "provenance")
        return Recommender.for_split(
            self.model, split, {name: self.record[name] for name in kept if name in self.record}
        )

    def recommend(self, users: Any = None, histories: Any = None, k: int = 10, **options: Any) -> Any:
        """See :meth:`recgraph.serve.recommender.Recommender.recommend`."""
        return self.recommender.recommend(users=users, histories=histories, k=k, **options)

    def save(self, folder: str | Path) -> None:
        """Write a bundle for serving; :func:`recgraph.load` reads it."""
        self.recommender.save(folder)

    def _require_split(self) -> SealedSplit:
        if self.split is None:
            raise ValueError("this run was opened without its data; give Run.open(folder, split=...)")
        return self.split

    @classmethod
    def open(cls, folder: str | Path, split: Split | SealedSplit | None = None) -> Run | NodeRun:
        """Open a finished run; one that embedded the nodes of a graph is a :class:`recgraph.node_run.NodeRun`.

        Args:
            folder: of the run.
            split: the data it was fitted on; by default prepared again from the run's data set and checked.

        Raises:
            ValueError: not a finished run, or the data is not what the run was fitted on.
        """
        folder = Path(folder)
        record = read_record(folder)
        if record.get("task") == "nodes":
            return NodeRun.open(folder)
        data = record["data"]
        if split is None and data["dataset"] is not None:
            split = DataConfig.of(data["settings"]).split_of(data["dataset"])
        if split is not None and split.hash != data["split_hash"]:
            raise ValueError(
                f"split hash {split.hash[:12]} is not the run's {data['split_hash'][:12]}: other data or parameters"
            )
        model = load(folder / "bundle").model
        return cls(model, split.sealed() if split is not None else None, record, folder)
