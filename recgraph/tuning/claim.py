"""The claim of a study on its folder: ``study.json`` says which study it is, and where that is kept."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recgraph.data.files import contents
from recgraph.data.imprint import load_json, replace_json
from recgraph.tuning.passwords import without_password
from recgraph.tuning.plan import Plan
from recgraph.tuning.storage import StudyStorage, is_same_storage, not_a_folder, storage_url
from recgraph.workers.lock import LOCK, locked

__all__ = ["check_storage", "claim", "different"]

#: the fields that identify a study
_IDENTITY = ("model", "revision", "metrics", "objective", "space", "split_hash", "seed")


def different(there: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """The names of the fields in which a study that exists differs; empty where it is this one."""
    # studies without a revision are from before any model was changed; of their own objective earlier ones said nothing
    before = {"revision": 1, "objective": identity["objective"], **there}
    if _is_same_model(before.get("model", ""), identity["model"]):
        before["model"] = identity["model"]
    return ", ".join(name for name in _IDENTITY if before.get(name) != identity[name])


def _is_same_model(one: str, other: str) -> bool:
    """Whether two references name one class; modules of the library may have moved between two versions of it."""
    (of, _, name), (at, _, its) = one.partition(":"), other.partition(":")
    return name == its and (of == at or of.partition(".")[0] == at.partition(".")[0] == "recgraph")


def claim(plan: Plan, identity: Mapping[str, Any], storage: str) -> bool:
    """Write the identity of the study into its folder, or check that the folder is this study's; whether it is new."""
    if plan.folder is None:
        return False
    path = plan.folder / "study.json"
    if file := not_a_folder(plan.folder):
        raise ValueError(f"{file} is a file; the study is kept in a folder: give an empty or new one (out=..., --out)")
    # first what is there, then whether a study is: another process may have begun it in between
    if contents(plan.folder) - {LOCK} and not path.exists():
        raise ValueError(f"{plan.folder} exists and holds no study; give an empty or new folder")
    with locked(plan.folder / LOCK):
        return _write_claim(plan, path, identity, storage)


def _write_claim(plan: Plan, path: Path, identity: Mapping[str, Any], storage: str) -> bool:
    if path.exists():
        there = load_json(path)
        name = there.get("study")
        if name != plan.study:
            raise ValueError(f"{path.parent} holds the study {name!r}; give another folder to {plan.study!r}")
        if differing := different(there, identity):
            raise ValueError(
                f"study {plan.study!r} exists with another {differing} in {plan.folder}; go on with the same ones, or "
                "give the new study another folder (--out) and name (--study)"
            )
        return False
    where = {} if storage == storage_url(None, plan.folder) else {"storage": without_password(storage)}
    replace_json({"study": plan.study, **where, **identity}, path)
    return True


def check_storage(plan: Plan, storage: StudyStorage) -> None:
    """Refuse another storage than that of the folder's study; one that the study was copied into is written down."""
    import optuna

    if plan.folder is None:
        return
    path = plan.folder / "study.json"
    there = load_json(path)
    before, now = (without_password(url) for url in (storage_url(there.get("storage"), plan.folder), storage.url))
    if is_same_storage(before, now):
        return
    # the first versions did not say which storage it is, where it is no journal in the folder
    is_known = "storage" in there or (plan.folder / "study.journal").exists()
    if is_known and plan.study not in optuna.get_all_study_names(storage.optuna):
        raise ValueError(
            f"{plan.folder} holds a study that is kept in {before}; go on with that storage (--storage), copy the "
            "study (optuna.copy_study), or give another folder (--out)"
        )
    with locked(plan.folder / LOCK):
        replace_json({**there, "storage": now}, path)
