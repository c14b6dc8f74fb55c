"""The data of a run, read again from where they came: a data set of the catalogue, or a file of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recgraph.data.errors import DataError
from recgraph.data.log_file import LogFile
from recgraph.data.reading import FEATURES, PARTS, Reading
from recgraph.data.split import SealedSplit, Split
from recgraph.runs.changed_features import Fingerprints, changed_features, fingerprints_in_memory
from recgraph.runs.record import DataRecord
from recgraph.runs.settings import DataConfig

__all__ = ["check_split", "features_of", "source_of", "split_again"]

_FIX = "say where that file lies now with --data FILE (in Python: Run.open(folder, 'FILE'))"


def source_of(split: Split | SealedSplit, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Where a split is from, for the record of a run: a file of one's own where that is all of it; else its features.

    Args:
        split: the data.
        given: what is said of it; the features are added where it names none.
    """
    files = split.interactions.files
    if given is not None or files is None:
        features = None if given is not None and "features" in given else features_of(split)
        return {**(given or {}), **({"features": features} if features else {})}
    settings = DataConfig.of(
        split=split.name, split_options=split.params, split_seed=split.seed or 0, reading=files.reading
    )
    try:
        return settings.source_of(files.path)
    except FileNotFoundError:
        return {}  # it is gone since it was read


def features_of(split: Split | SealedSplit) -> Fingerprints | None:
    """The fingerprints of the files of features that a split was read from, else of its features in memory.

    None: the files are gone since they were read.
    """
    files = split.interactions.files
    try:
        return fingerprints_in_memory(split.interactions) if files is None else files.fingerprints_of_features()
    except FileNotFoundError:
        return None


def split_again(
    data: DataRecord, path: str | Path | Mapping[str, str | Path] | None = None
) -> tuple[Split | None, Fingerprints | None]:
    """The split that a run was fitted on, made again and checked, and the fingerprints of its files of features now.

    None and None where its record names no data.

    Args:
        data: the record of the run's data.
        path: where the file lies now, which the run was made from; where it was made from several a mapping of their
            names (``train``, which is the log, ``valid``, ``test``, ``item_features``, ``user_features``) to their
            places, those that have moved.

    Raises:
        FileNotFoundError: the file is gone.
        ValueError: its content has changed, ``path`` is given and the run was not made from a file, or names a file
            that it was not made from.
    """
    if path is not None and data.file is None:
        raise ValueError(
            f"{str(path)!r}: this run was not made from a file but from "
            f"{f'dataset {data.dataset!r}' if data.dataset else 'data in memory'}; leave --data out"
        )
    if data.dataset is None:
        return None, None
    settings = DataConfig.of(data.settings)
    if isinstance(path, Mapping):
        settings, path = _moved(data, settings, dict(path))
    if path is not None and settings.reading is not None:  # it may be in another format now
        settings = settings.model_copy(update={"reading": _as_it_lies(settings.reading, str(path))})
    if data.file is None:
        split = settings.split_of(data.dataset, again=True)
        check_split(split, data)
        in_memory = any(each["path"] is None for each in (data.features or {}).values())
        return split, features_of(split) if in_memory else settings.features_of(data.dataset)
    place = str(Path(data.dataset if path is None else path).absolute())
    file = LogFile(place, settings.reading or Reading())
    try:
        split = settings.split_of(place)
    except FileNotFoundError:
        if file.is_there:  # what is missing is another file
            raise
        raise FileNotFoundError(f"the run was made from {place}, which is not there; {_FIX}") from None
    except DataError as error:
        if _is_same(file, data.file):
            for text in changed_features(data.features, file.fingerprints_of_features(), "the run").values():
                raise ValueError(f"{text}. It cannot be read now: {error}") from None
            raise
        raise ValueError(f"{_changed(file, data.file)}. It cannot be read now: {error}") from None
    if split.hash != data.split_hash and not _is_same(file, data.file):
        raise ValueError(_changed(file, data.file))
    check_split(split, data)
    return split, file.fingerprints_of_features()


def _as_it_lies(reading: Reading, path: str) -> Reading:
    """The reading of a file that has moved, without what says how another format is written.

    A name that says no format leaves the one that the file had.
    """
    file = LogFile(path, reading.model_copy(update={"format": None}))
    try:
        form = file.format
    except (FileNotFoundError, ValueError):
        return reading
    return file.reading.for_format(form)


def _moved(
    data: DataRecord, settings: DataConfig, parts: dict[str, str | Path]
) -> tuple[DataConfig, str | Path | None]:
    """The settings with the new places of given parts and files of features, and that of the training part."""
    reading, train = settings.reading or Reading(), parts.pop("train", None)
    of_run = [name for name in (*PARTS, *FEATURES) if getattr(reading, name) is not None]
    of_run += [name for name, each in (data.features or {}).items() if each["path"] is not None]
    for name, place in parts.items():
        if name not in of_run:
            raise ValueError(f"{name} = {str(place)!r}: this run was made without such a file; leave it out")
    places = {name: str(Path(place).absolute()) for name, place in parts.items()}
    return settings.model_copy(update={"reading": reading.model_copy(update=places)}), train


def check_split(split: Split | SealedSplit, data: DataRecord) -> None:
    """Refuse a split that is not the one that a run was fitted on.

    Raises:
        ValueError: names both hashes; or the run was fitted to no split.
    """
    if data.split_hash is None:
        raise ValueError("this run was not fitted to a split, so that no data belongs to it; open it without")
    if split.hash != data.split_hash:
        raise ValueError(
            f"split hash {split.hash[:12]} is not the run's {data.split_hash[:12]}: other data or parameters"
        )


def _is_same(file: LogFile, then: Mapping[str, Any]) -> bool:
    return bool(file.fingerprint()["sha256"] == then["sha256"])


def _changed(file: LogFile, then: Mapping[str, Any]) -> str:
    now = file.fingerprint()["sha256"]
    return (
        f"{file.path} is not the file that the run was made from: its sha256 is {now[:12]}, that of the run's "
        f"{then['sha256'][:12]}. A run is evaluated on the data that it was made from: {_FIX}, or train again on the "
        "new file"
    )
