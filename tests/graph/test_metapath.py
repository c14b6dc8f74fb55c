"""Meta-paths: golden steps, published matrices, notations, forms, costs, proposals; nodes that very
many share.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from random_matrices import random_matrix
from refusing import refused

from recgraph.graph.contexts import Walked
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import (
    MetaPath,
    PathError,
    PathTooLargeError,
    path_counts,
    propose,
    ranking,
    text_of,
)
from recgraph.graph.schema import EdgeType
from recgraph.sparse.csr import Csr
from recgraph.sparse.operators import Normalisation
from recgraph.sparse.products import compose, n_pairs
from recgraph.sparse.select import split_hubs, top_k
from recgraph.sparse.spmm import spmm

GOLDEN = Path(__file__).parents[1] / "golden"
BY: EdgeType = ("paper", "by", "author")
ON: EdgeType = ("paper", "on", "subject")
CLOSE = {"rtol": 1e-8, "atol": 1e-12}


@pytest.fixture(scope="module", params=["a", "b"])
def step(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A golden step: arrays as tensors."""
    with np.load(GOLDEN / f"meow_step_{request.param}.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def _close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize(
    ("name", "path"), [("pap", "paper-author-paper"), ("psp", "paper-subject-paper")]
)
def test_the_golden_counts(step: dict[str, Any], name: str, path: str) -> None:
    """The rest of a step is compared through the model: tests/models/test_metapath_models.py."""
    graph = HeteroGraph.from_scipy(
        {BY: sp.csr_array(step["pa"].numpy()), ON: sp.csr_array(step["ps"].numpy())}
    )
    counts = MetaPath(path).counts(graph)
    _close(counts.to_dense(), step[name])
    _close(counts.with_weights(similarities(counts)).to_dense(), step[f"pathsim_{name}"])


# data set -> (counts, edge file -> its edge type, published matrix -> path)
PUBLISHED: dict[str, tuple[dict[str, int], dict[str, EdgeType], dict[str, str]]] = {
    "acm": (
        {"paper": 4019, "author": 7167, "subject": 60},
        {"pa": BY, "ps": ON},
        {"pap": "paper-author-paper", "psp": "paper-subject-paper"},
    ),
    "imdb": (
        {"movie": 4275, "actor": 5432, "director": 2083, "keyword": 7313},
        {
            "ma": ("movie", "with", "actor"),
            "md": ("movie", "by", "director"),
            "mk": ("movie", "on", "keyword"),
        },
        {"mam": "movie-actor-movie", "mdm": "movie-director-movie", "mkm": "movie-keyword-movie"},
    ),
    "dblp": (
        {"author": 4057, "paper": 14328, "conference": 20, "term": 7723},
        {"pa": BY, "pc": ("paper", "in", "conference"), "pt": ("paper", "has", "term")},
        {"apa": "author-paper-author", "apcpa": "author-paper-conference-paper-author"},
    ),
    "aminer": (
        {"paper": 6564, "author": 13329, "reference": 35890},
        {"pa": BY, "pr": ("paper", "cites", "reference")},
        {"pap": "paper-author-paper", "prp": "paper-reference-paper"},
    ),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_published_matrices(name: str, shared: Path) -> None:
    folder = shared / "data" / "hin" / name
    counts, files, matrices = PUBLISHED[name]
    edges = {
        kind: np.loadtxt(folder / f"{file}.txt", dtype=np.int64) for file, kind in files.items()
    }
    graph = HeteroGraph.from_edge_lists(counts, edges)
    for file, path in matrices.items():
        published = sp.csr_array(sp.load_npz(folder / f"{file}.npz"))
        published.sum_duplicates()
        published.sort_indices()
        published.eliminate_zeros()
        form = "full" if name in ("acm", "imdb") else "binary"
        ours = MetaPath(path, counts=form).counts(graph)  # type: ignore[arg-type]
        assert np.array_equal(ours.indptr, published.indptr), (name, file)
        assert np.array_equal(ours.indices, published.indices), (name, file)
        if form == "full":
            assert np.array_equal(ours.values(), published.data), (name, file)


def _typed(seed: int = 0, device: torch.device | None = None) -> HeteroGraph:
    """With repeated edges, several relations between two types, and one inside a type."""
    draw = torch.Generator().manual_seed(seed)
    sizes = {"user": 40, "item": 30, "genre": 5}
    edges = {
        ("user", "rates", "item"): random_matrix(40, 30, 120, draw, weighted=True),
        ("user", "views", "item"): random_matrix(40, 30, 60, draw),
        ("item", "has", "genre"): random_matrix(30, 5, 40, draw),
        ("user", "follows", "user"): random_matrix(40, 40, 80, draw),
    }
    graph = HeteroGraph.from_edge_lists(sizes, {}).with_edges(
        {k: v.to(dtype=torch.float64) for k, v in edges.items()}
    )
    return graph if device is None else graph.to(device)


def similarities(counts: Csr) -> torch.Tensor:
    return ranking(counts, *[counts.diagonal().to(torch.float64)] * 2)


def _dense(graph: HeteroGraph, edge_type: EdgeType) -> torch.Tensor:
    return graph.adjacency(edge_type).to_dense().to(torch.float64)


def test_notations_and_directions() -> None:
    graph = _typed()
    rates, follows = (
        _dense(graph, ("user", "rates", "item")),
        _dense(graph, ("user", "follows", "user")),
    )
    rated = MetaPath("user>rates>item<rates<user").counts(graph)
    _close(rated.to_dense(), rates @ rates.T)
    for text, expected in {
        "user>follows>user": follows,
        "user<follows<user": follows.T,
        "user-user": follows,
        "user-user-user": follows @ follows,
        "user>follows>user<follows<user": follows @ follows.T,
        "item-genre": _dense(graph, ("item", "has", "genre")),
        "genre-item": _dense(graph, ("item", "has", "genre")).T,
    }.items():
        torch.testing.assert_close(
            MetaPath(text).counts(graph).to_dense().double(), expected, rtol=1e-6, atol=0
        )


@pytest.mark.parametrize("path", ["user", "user-item-user", "user-genre", "user>rates<item"])
def test_what_is_no_path(path: str) -> None:
    with refused(path, by=PathError):
        MetaPath(path).route(_typed())


def test_a_path_that_does_not_fit_is_refused() -> None:
    with refused("max_memory_mib", by=PathTooLargeError):
        MetaPath("user-user-user", max_memory_mib=0.001).counts(_typed())


@pytest.mark.parametrize("path", ["user>rates>item<rates<user", "user-user-user", "user-user"])
@pytest.mark.parametrize("counts", ["full", "binary"])
def test_top_k_by_blocks_equals_top_k_of_all(path: str, counts: Any, device: torch.device) -> None:
    graph = _typed(device=device)
    whole = MetaPath(path, counts=counts).counts(graph)
    for k in (1, 4):
        by_blocks = MetaPath(path, counts=counts, top_k=k).adjacency(graph)
        at_once = top_k(whole, k, similarities(whole))
        assert torch.equal(by_blocks.to_dense(), at_once.to_dense())


@pytest.mark.parametrize(
    "path", ["user>rates>item<rates<user", "user>views>item>has>genre<has<item<views<user"]
)
@pytest.mark.parametrize("kind", ["meow", "row", "symmetric", "column"])
def test_the_factorised_form_equals_the_composed_one(
    path: str, kind: Normalisation, device: torch.device
) -> None:
    graph = _typed(device=device)
    x = torch.rand(40, 3, dtype=torch.float64, device=device)
    composed = MetaPath(path, normalisation=kind)(graph)
    factorised = MetaPath(path, normalisation=kind, form="factorised")(graph)
    torch.testing.assert_close(
        spmm(factorised, x), spmm(composed.to(dtype=torch.float64), x), rtol=1e-6, atol=1e-9
    )


def test_the_compressed_form_equals_the_composed_one(device: torch.device) -> None:
    items = torch.arange(40) % 4  # ten users to an item: four distinct rows
    graph = HeteroGraph.from_edge_lists(
        {"user": 40, "item": 4}, {("user", "has", "item"): (torch.arange(40), items)}
    )
    graph = graph.to(device)
    x = torch.rand(40, 3, dtype=torch.float64, device=device)
    for k in (None, 5):
        composed = MetaPath("user-item-user", top_k=k)(graph, torch.float64)
        compressed = MetaPath("user-item-user", top_k=k, form="compressed")(graph)
        assert compressed.nnz < composed.nnz / 2
        torch.testing.assert_close(spmm(compressed, x), spmm(composed, x), rtol=1e-12, atol=1e-14)
    other = MetaPath("item-user-item", form="compressed")(graph)
    assert isinstance(other, Csr), "nothing to be saved"


@pytest.mark.parametrize("sparse", [True, False])
def test_ties_by_the_cosine_of_features(sparse: bool, device: torch.device) -> None:
    """All papers of a subject are equally similar; the nearest by words stay."""
    words = torch.rand(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graph = (
        _two_subjects(words)
        .with_features({"paper": Csr.from_dense(words) if sparse else words})
        .to(device)
    )
    kept = MetaPath("paper-subject-paper", top_k=5, ties="cosine").adjacency(graph).to_dense().cpu()
    units = torch.nn.functional.normalize(words, dim=1)
    cosine = (units @ units.T).masked_fill(SUBJECTS[:, None] != SUBJECTS, -1)
    nearest = torch.zeros(40, 40).scatter_(1, cosine.topk(5).indices, 1.0)
    assert torch.equal((kept > 0).float(), nearest)
    bare = graph.with_features({"paper": None})
    with pytest.raises(PathError):
        MetaPath("paper-subject-paper", top_k=5, ties="cosine").adjacency(bare)


SUBJECTS = torch.arange(40) % 2


def _two_subjects(words: torch.Tensor) -> HeteroGraph:
    return HeteroGraph.from_edge_lists(
        {"paper": 40, "subject": 2},
        {("paper", "on", "subject"): (torch.arange(40), SUBJECTS)},
        {"paper": words},
    )


def test_pathsim_of_ways_without_a_way_back() -> None:
    # 3 and 4 lead back to themselves; 0, 1 and 2 do not
    dense = torch.tensor(
        [[0, 5, 7, 1, 0], [0] * 5, [0] * 5, [2, 0, 0, 4, 2], [0, 0, 0, 2, 4]], dtype=torch.float64
    )
    counts = Csr.from_dense(dense)
    expected = [0, 0, 2 / 4, 4 / 4, 1, 4 / 8, 4 / 8, 1]
    assert similarities(counts).clamp(min=0).tolist() == expected
    # a pair that PathSim knows comes before all others, and these by their numbers of paths
    assert top_k(counts, 1, similarities(counts)).take_rows(torch.tensor([0])).indices.tolist() == [
        3
    ]
    assert top_k(counts, 2, similarities(counts)).take_rows(torch.tensor([0])).indices.tolist() == [
        2,
        3,
    ]


def test_proposals_from_the_schema() -> None:
    graph = _typed()
    proposals = propose(graph, "user", max_steps=4)
    paths = [proposal.path for proposal in proposals]
    assert "user-user" in paths
    assert "user>rates>item<rates<user" in paths
    assert "user>views>item>has>genre<has<item<views<user" in paths
    assert "user>rates>item<views<user>views>item<rates<user" in paths
    assert len(paths) == len(set(paths))
    assert [p.score for p in proposals] == sorted((p.score for p in proposals), reverse=True)
    for proposal in proposals:
        off = MetaPath(proposal.path).counts(graph).with_diagonal(None)
        assert proposal.coverage == pytest.approx(float((off.degrees > 0).double().mean()))
    assert {p.path for p in propose(graph, "item", 2)} == {
        "item-genre-item",
        "item<rates<user>rates>item",
        "item<views<user>views>item",
    }
    assert all(text_of(MetaPath(path).route(graph), graph) == path for path in paths)


def test_contexts_below_the_cap_are_exact_and_others_count_ways() -> None:
    draw = torch.Generator().manual_seed(0)
    edges = {
        ("paper", "by", "author"): (
            torch.arange(90) % 40,
            torch.randint(30, (90,), generator=draw),
        ),
        ("paper", "on", "subject"): (
            torch.randint(40, (60,), generator=draw),
            torch.randint(6, (60,), generator=draw),
        ),
    }
    graph = HeteroGraph.from_edge_lists({"paper": 40, "author": 30, "subject": 6}, edges)
    h = torch.rand(40, 3, dtype=torch.float64)
    route = MetaPath("author-paper-subject-paper-author").route(graph)[:-1]
    steps = tuple(step.matrix(graph).with_weights(None) for step in route)
    middle = compose(steps[0].pattern(), steps[1], "binary")
    reached = compose(middle, steps[2], "binary")
    exact = spmm(reached, h) / reached.degrees.clamp(min=1)[:, None].to(h.dtype)
    ways = n_pairs(middle, steps[2])
    for cap in (39, 30, 20, 10):
        # few enough papers, or few enough ways
        below = ways <= cap
        assert 0 < int(below.sum()) < len(below)
        found = Walked(steps, cap).mean(h)
        torch.testing.assert_close(found[below], exact[below], rtol=1e-12, atol=1e-12)
        # a repeated edge is one way
        last = steps[2].pattern()
        by_way = spmm(middle, spmm(last, h)) / n_pairs(middle, last).clamp(min=1)[:, None]
        torch.testing.assert_close(found[~below], by_way[~below], rtol=1e-12, atol=1e-12)
    for cap in (40, None):
        assert torch.equal(Walked(steps, cap).mean(h), exact)
    # cut at the first step already: the way to the subjects is counted, too
    first = n_pairs(steps[0].pattern(), steps[1]) > 1
    all_ways = spmm(steps[0].pattern(), spmm(steps[1].pattern(), spmm(steps[2].pattern(), h)))
    n_ways = path_counts([step.pattern() for step in steps])
    expected = all_ways / n_ways.clamp(min=1)[:, None]
    torch.testing.assert_close(
        Walked(steps, 1).mean(h)[first], expected[first], rtol=1e-12, atol=1e-12
    )


def shopping(weighted: bool = False) -> HeteroGraph:
    """300 users of nine items: item 7 has all of them, item 2 has 40, the others few; some view it,
    too.
    """
    draw = torch.Generator().manual_seed(1)
    few = torch.randperm(300, generator=draw)[:60]
    users = torch.cat([torch.arange(300), torch.arange(40) * 7, few])
    items = torch.cat([torch.full((300,), 7), torch.full((40,), 2), torch.arange(60) % 9])
    pairs = torch.unique(torch.stack([users, items]), dim=1)
    views = torch.randint(300, (90,), generator=draw), torch.where(torch.arange(90) < 70, 7, 1)
    edges = {
        ("user", "has", "item"): (pairs[0], pairs[1]),
        ("item", "seen", "user"): (views[1], views[0]),
    }
    weights = {
        ("user", "has", "item"): torch.rand(pairs.shape[1], generator=draw, dtype=torch.float64)
        + 0.5
    }
    return HeteroGraph.from_edge_lists(
        {"user": 300, "item": 9}, edges, weights=weights if weighted else None
    )


BOUGHT, SEEN = "user>has>item<has<user", "user>has>item>seen>user"


@pytest.mark.parametrize("path", [BOUGHT, SEEN])
@pytest.mark.parametrize("weighted", [True, False])
def test_a_divided_hub_relates_a_node_to_its_group_alone(path: str, weighted: bool) -> None:
    """Counts over other items are exact, and over the hub a pair has the exact one or none."""
    graph = shopping(weighted)
    left, right = (step.matrix(graph).coalesce() for step in MetaPath(path).route(graph))
    draw = torch.Generator().manual_seed(0)
    assert split_hubs(left, right, 300, draw) == (left, right)
    split, back = split_hubs(left, right, 50, draw)
    assert back.degrees.max() <= 50
    assert (back is split.t()) == (right is left.t()) == (path == BOUGHT)
    n_groups = -(-int(right.degrees[7]) // 50)
    assert split.shape == (300, 8 + n_groups)
    assert int(n_pairs(split, back).sum()) <= 50 * left.nnz
    # each entry is there once, with its weight
    assert torch.equal(split.degrees, left.degrees)
    torch.testing.assert_close(split.values(torch.float64).sum(), left.values(torch.float64).sum())
    a, b = left.to_dense().double(), right.to_dense().double()
    found, exact, by_hub = (
        split.to_dense().double() @ back.to_dense().double(),
        a @ b,
        a[:, 7:8] @ b[7:8],
    )
    through = found - (exact - by_hub)
    close = {"rtol": 1e-10, "atol": 1e-10}
    assert bool(
        (
            torch.isclose(through, by_hub, **close) | torch.isclose(through, through * 0, **close)
        ).all()
    )
    torch.testing.assert_close(found.diagonal(), exact.diagonal())
    if path == BOUGHT:
        torch.testing.assert_close(found, found.t())
