"""What a study found out on test, as rows and as words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from recgraph.tuning.final import UNSEALED

if TYPE_CHECKING:
    from optuna import Study

__all__ = ["test_rows", "verdicts"]


def _last(study: Study) -> dict[str, Any]:
    """The newest test; empty where the test part is sealed."""
    tested = study.user_attrs.get(UNSEALED)
    return dict(tested[-1]) if tested else {}


def verdicts(study: Study) -> list[str]:
    """Whether the tuned configuration beats the default one on test, with how sure that is."""
    told = _last(study).get("comparison") or {}
    return [
        f"test, seen items {'kept' if seen == 'keep' else 'excluded'}: tuned less default {each['metric']} "
        f"{each['difference']:+.4f} ({each['confidence']:.0%} interval {each['low']:+.4f} to {each['high']:+.4f}, "
        f"p = {each['p']:.2g}, {each['n_users']} users): {_verdict(each)}"
        for seen, each in told.items()
    ]


def _verdict(told: dict[str, Any]) -> str:
    if told["p"] >= 1 - told["confidence"]:
        return "no difference that is more than chance"
    return "the tuned one is better" if told["difference"] > 0 else "the tuned one is worse"


def test_rows(study: Study) -> list[dict[str, Any]]:
    """One row a test metric: of the best and of the default configuration, means over seeds."""
    results = _last(study).get("results", {})
    rows = []
    for seen, metrics in results.get("tuned", {}).items():
        for name, tuned in metrics.items():
            row = {"metric": name, "seen": seen, "tuned": tuned["mean"], "tuned std": tuned["std"]}
            default = results.get("default")
            if default is not None:
                row |= {"default": default[seen][name]["mean"], "default std": default[seen][name]["std"]}
            rows.append(row)
    return rows
