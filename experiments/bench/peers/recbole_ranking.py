"""RecBole's full ranking of all test users end to end: encoding, scores, top-k and metrics; seen items stay in."""

from __future__ import annotations

from typing import Any

from recbole_data import recbole


def prepare(options: dict[str, Any]) -> Any:
    trainer, _, test = recbole(options)
    n_users = len(test.dataset)

    def run(steps: int) -> dict[str, float]:
        for _ in range(steps):
            trainer.evaluate(test, load_best_model=False, show_progress=False)
        return {"users": float(n_users * steps)}

    return run
