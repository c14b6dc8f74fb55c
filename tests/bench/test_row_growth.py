"""The stages of training over large tables: what a step touches does not grow with the table."""

from __future__ import annotations

import pytest
from torch import Tensor

from experiments.bench import row_growth
from recgraph.rows import is_sparse
from recgraph.train.trainer import Trainer


@pytest.mark.parametrize(
    "stage", [stage for stage in row_growth.stages() if stage.unit == "items"], ids=lambda s: s.name
)
def test_a_step_touches_as_many_rows_of_any_table(stage: row_growth.Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_growth, "BATCHES", 2)
    monkeypatch.setattr(row_growth, "N_USERS", 256)
    touched = []
    for n_items in (5_000, 50_000):
        trainer, drawn = stage.prepare(n_items)
        assert isinstance(trainer, Trainer)
        named = dict(trainer.model.named_parameters())
        table = named[trainer.model.row_sparse_tables[0]]
        assert is_sparse(table)
        assert len(table) > n_items
        rows: list[int] = []

        def note(*_: object, table: Tensor = table, rows: list[int] = rows) -> None:
            if table.grad is not None:
                rows.append(len(table.grad.coalesce().indices()[0]))

        # before the step clears them
        trainer.optimisers["model tables"].register_step_pre_hook(note)
        stage.run((trainer, drawn))
        assert rows
        touched.append(sum(rows))
    assert touched[1] < 1.5 * touched[0]


def test_stages_of_negatives_run() -> None:
    found = [stage for stage in row_growth.stages() if stage.unit == "negatives a target"]
    assert [stage.name for stage in found] == ["steps-sasrec-bce", "steps-sasrec-bpr"]
    trainer, drawn = found[0].prepare(2)
    found[0].run((trainer, drawn[:1]))
    assert trainer.progress.step == 2
    assert found[0].sizes == row_growth.NEGATIVES
