"""Small settings for tests that go over all models, and a tiny data set with classes of nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recgraph.config import merged, put, walk


def with_small(cls: Any, small: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, and those of the small ones, by dotted names, that the model has."""
    known = {name for name, _, _ in walk(cls.Config)}
    found: dict[str, Any] = {}
    for name, value in small.items():
        if name in known:
            put(found, name.split("."), value)
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found = merged(found, {name: value})
        else:
            put(found, name.split("."), value)
    return found


N_PAPERS, N_AUTHORS = 60, 30


def make_card(folder: Path) -> Path:
    """Write the files into ``folder/tiny`` and the card beside it: papers of two classes that share
    authors.
    """
    files = folder / "tiny"
    files.mkdir(parents=True)
    draw = np.random.default_rng(0)
    labels = np.arange(N_PAPERS) % 2
    # authors of even numbers write papers of one class, the others of the other class
    authors = 2 * draw.integers(0, N_AUTHORS // 2, size=(N_PAPERS, 3)) + labels[:, None]
    pairs = [(paper, author) for paper in range(N_PAPERS) for author in sorted(set(authors[paper]))]
    (files / "pa.txt").write_text("".join(f"{paper}\t{author}\n" for paper, author in pairs))
    np.save(files / "features.npy", draw.random((N_PAPERS, 8)) + 0.3 * labels[:, None])
    np.save(files / "labels.npy", labels)
    order = draw.permutation(N_PAPERS)
    for name, part in (("train", order[:20]), ("valid", order[20:40]), ("test", order[40:])):
        np.save(files / f"{name}.npy", part)
    hashes = "".join(
        f'"{path.name}" = "{hashlib.sha256(path.read_bytes()).hexdigest()}"\n'
        for path in files.iterdir()
    )
    card = folder / "tiny.toml"
    texts = "".join(
        f'{key} = "x"\n'
        for key in ("title", "description", "licence", "citation", "acknowledgement", "homepage")
    )
    card.write_text(
        f'task = "nodes"\nname = "tiny"\n{texts}'
        f'[nodes.paper]\ncount = {N_PAPERS}\nfeatures = "features.npy"\nnormalise = false\n'
        f"[nodes.author]\ncount = {N_AUTHORS}\n"
        f'[[edges]]\ntype = ["paper", "by", "author"]\nfile = "pa.txt"\ncount = {len(pairs)}\n'
        '[labels]\ntarget = "paper"\nfile = "labels.npy"\nclasses = 2\n'
        'paths = ["paper-author-paper"]\n'
        '[labels.splits]\n10 = ["train.npy", "valid.npy", "test.npy"]\n'
        f"[files]\n{hashes}"
        '[[sources]]\nkind = "local"\nfolder = "tiny"\n'
    )
    return card
