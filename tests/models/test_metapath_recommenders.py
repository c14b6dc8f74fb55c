"""MEOW and AdaMEOW as recommenders: what they are made of, their special cases, and items that nobody has had yet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
import torch.nn.functional as F
from collaborative_cases import SPACE, first_batch, made, planted, with_relations

import recgraph as rg
from recgraph import registry
from recgraph.config import ConfigError
from recgraph.contrast.prototypes import proto_nce, prototypes_of
from recgraph.data.batches import Query
from recgraph.data.ids import IdMap
from recgraph.data.part import Part
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.base import Space
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.models.heterogeneous.meow import AdaMEOWRec, MEOWRec
from recgraph.models.heterogeneous.recommender import MetaPathRecommender
from recgraph.rng import Generators
from recgraph.serve.recommender import NoHistoryError
from recgraph.sparse.csr import Csr
from recgraph.sparse.ragged import Ragged

NAMES = ("meowrec", "adameowrec")


def _own_and_fine(model: MetaPathRecommender) -> tuple[torch.Tensor, torch.Tensor]:
    own = model.own_vectors()
    return model.encoder(own), model.encoder(model.fine_vectors(own, None))


def test_without_its_views_it_is_lightgcn() -> None:
    light, ours = made("lightgcn"), made("meowrec", recommend_by="interactions", contrast_weight=0)
    assert tuple(ours.phases[0].terms) == ("rec", "l2")
    ours.embedding.load_state_dict(light.embedding.state_dict())
    a, b = first_batch(light), first_batch(ours)
    assert torch.equal(a.negatives, b.negatives)
    for term in ("rec", "l2"):
        torch.testing.assert_close(ours(b, [term])[term], light(a, [term])[term])
    torch.testing.assert_close(ours.eval().nodes(), light.eval().nodes())


@pytest.mark.parametrize("encoder", ["light", "gcn"])
def test_the_three_ways_to_recommend(encoder: str) -> None:
    scored = {}
    for by in ("interactions", "fine", "both"):
        model = made("meowrec", recommend_by=by, view_encoder=encoder)
        assert isinstance(model, MetaPathRecommender)
        first_batch(model)
        scored[by] = model.eval().nodes()
    torch.testing.assert_close(scored["interactions"] + scored["fine"], scored["both"])
    assert not torch.allclose(scored["interactions"], scored["fine"])


def test_the_terms_of_meow() -> None:
    """Cluster-weighted InfoNCE without the positive, from own vectors to fine views, and ProtoNCE; users plus items."""
    model = made("meowrec", dropout=0.0, feature_mask=0.0, n_clusters=(3, 5), temperature=0.4).double()
    assert isinstance(model, MEOWRec)
    batch = first_batch(model)
    terms = model(batch, ["info", "proto"])
    own, fine = _own_and_fine(model)
    info = proto = torch.zeros((), dtype=torch.float64)
    for start, chosen in ((0, batch.users.unique()), (SPACE.n_users, batch.items.unique())):
        a, b = (F.normalize(x[start + chosen]) for x in (own, fine))
        clusterings = model.prototypes(b)
        apart = sum((c.assignments[:, None] != c.assignments).double() for c in clusterings)
        similarity = a @ b.T / 0.4
        weighted = (apart * similarity.exp()).sum(1)
        info = info + (weighted.log() - similarity.diagonal()).mean()
        proto = proto + proto_nce(model.proto_contrast, a, prototypes_of(clusterings, b, 0.4))
    torch.testing.assert_close(terms["info"], info)
    torch.testing.assert_close(terms["proto"], proto)


@pytest.mark.parametrize("weight", ["cluster", "learned", None])
@pytest.mark.parametrize("name", NAMES)
def test_a_last_batch_of_one_user_and_one_item(name: str, weight: str | None) -> None:
    model = made(name, weight=weight)
    batch = first_batch(model)
    one = replace(batch, users=batch.users[:1], items=batch.items[:1], negatives=batch.negatives[:1])
    terms = model.train()(one, list(model.phases[0].terms))
    torch.stack([model.phases[0].terms[name] * value for name, value in terms.items()]).sum().backward()
    assert model.embedding.weight.grad is not None
    assert bool(model.embedding.weight.grad.isfinite().all())
    if name == "meowrec" or weight == "cluster":
        assert float(terms["info"].detach()) == 0
    # the items of a user's batch still have one another
    several = replace(batch, users=batch.users[:1].expand(len(batch.users)))
    assert float(model(several, ["info"])["info"].detach()) != 0


def test_one_cluster_for_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="one cluster holds all rows"):
        made("meowrec", n_clusters=(1,))
    # as one of several granularities it weighs all alike
    model = made("meowrec", n_clusters=(1, 3))
    assert float(model(first_batch(model), ["info"])["info"].detach()) > 0


def test_settings_without_an_effect_are_refused() -> None:
    with pytest.raises(ConfigError, match="redraw_masks = True"):
        MEOWRec(redraw_masks=True)
    with pytest.raises(ConfigError, match="projection_dim = 8 needs view_encoder = 'gcn'"):
        AdaMEOWRec(projection_dim=8)
    model = made("meowrec", projection_dim=8, view_encoder="gcn")
    assert isinstance(model, MetaPathRecommender)
    assert model.views[0].head(torch.ones(3, 16)).shape == (3, 8)


def test_binary_counts_are_those_of_paths_that_are_composed() -> None:
    paths = {"user_metapaths": ("user-item-user",), "item_metapaths": ("item-user-item", "item-genre-item")}
    numbers, binary = made("meowrec", top_k=None, **paths), made("meowrec", top_k=None, counts="binary", **paths)
    assert isinstance(numbers, MetaPathRecommender)
    assert isinstance(binary, MetaPathRecommender)
    one, other = (
        [path.adjacency.to_dense().double() for inputs in model._inputs for path in inputs.paths]
        for model in (numbers, binary)
    )
    assert not torch.allclose(one[0], other[0])
    assert not torch.allclose(one[1], other[1])
    torch.testing.assert_close(one[2], other[2])


def test_masks_of_each_path_are_those_of_users_then_those_of_items() -> None:
    paths = {"user_metapaths": ("user-item-user",), "item_metapaths": ("item-user-item", "item-genre-item")}
    model = made("meowrec", edge_mask=(0.0, 0.9, 0.0), **paths)
    assert isinstance(model, MetaPathRecommender)
    read = [path for inputs in model._inputs for path in inputs.paths]
    kept = [int((path.masked.to_dense() > 0).sum()) / int((path.adjacency.to_dense() > 0).sum()) for path in read]
    assert kept[0] >= 1
    assert kept[1] < 0.6
    assert kept[2] == 1
    with pytest.raises(ValueError, match=r"edge_mask = \(0.1, 0.2\) has 2 values for 3 meta-paths"):
        made("meowrec", edge_mask=(0.1, 0.2), **paths)


def test_each_seed_draws_masks_of_its_own() -> None:
    masked = [
        [path.masked.to_dense() for side in made("meowrec", seed=seed)._inputs for path in side.paths]
        for seed in (1, 1, 2)
    ]
    first, again, other = masked
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_masks_come_with_the_weights_that_were_trained_on_them() -> None:
    trained, other = made("meowrec", seed=1), made("meowrec", seed=2)
    before = other.eval().nodes()
    other.load_state_dict(trained.state_dict())
    assert not torch.equal(other.eval().nodes(), before)
    assert torch.equal(other.nodes(), trained.eval().nodes())


def test_the_term_of_adameow() -> None:
    """InfoNCE from fine views to own vectors, each pair weighted by a network of its side."""
    model = made("adameowrec", dropout=0.0, feature_mask=0.0, temperature=0.4).double()
    assert isinstance(model, AdaMEOWRec)
    batch = first_batch(model)
    term = model(batch, ["info"])["info"]
    own, fine = _own_and_fine(model)
    expected = torch.zeros((), dtype=torch.float64)
    for number, (start, chosen) in enumerate(((0, batch.users.unique()), (SPACE.n_users, batch.items.unique()))):
        b, a = (F.normalize(x[start + chosen]) for x in (own, fine))
        weight = model.contrasts[number].weight
        hidden = torch.tanh(weight.first(a[:, None] + b[None]))
        w = torch.sigmoid(weight.second(hidden))[..., 0]
        similarity = a @ b.T / 0.4
        expected = expected + ((w * similarity.exp()).sum(1).log() - similarity.diagonal()).mean()
    torch.testing.assert_close(term, expected)
    term.backward()
    assert all(contrast.weight.first.weight.grad is not None for contrast in model.contrasts)


def test_paths_follow_from_the_graph() -> None:
    model = made("meowrec")
    assert isinstance(model, MetaPathRecommender)
    users, items = model._inputs
    assert {path.name for path in users.paths} == {"user-item-user", "user-user"}
    assert {path.name for path in items.paths} == {"item-user-item", "item-genre-item"}
    chosen = made("meowrec", item_metapaths=("item-genre-item",))
    assert isinstance(chosen, MetaPathRecommender)
    assert [path.name for path in chosen._inputs[1].paths] == ["item-genre-item"]
    with pytest.raises(ValueError, match="user_metapaths: 'item-genre-item' leads from 'item'"):
        made("meowrec", user_metapaths=("item-genre-item",))
    with pytest.raises(ValueError, match=r"item_metapaths = \(\) must .* \(None\) for all .* offers: 'item-"):
        made("meowrec", item_metapaths=())
    with pytest.raises(ValueError, match="needs a typed graph"):
        MEOWRec().build(SPACE)


@pytest.mark.parametrize("name", NAMES)
def test_new_items_are_found_through_their_genre(name: str) -> None:
    """A tenth of the items is in no interaction; users still get those of their own group first."""
    part, _ = planted()
    new = torch.tensor([27, 28, 29])
    rows = [[item for item in row if item not in new.tolist()] for row in part.items.to_lists()]
    part = Part(Ragged.from_lists(rows), SPACE.n_items)
    cls: type[MetaPathRecommender] = registry.load("model", name)
    model = cls(hidden_dim=16, recommend_by="both", feature_mask=0.5).build(with_relations(part), 0)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    generators = Generators(0)
    for epoch in range(20):
        for batch in model.batches(part, 64, generators).epoch(epoch):
            terms, weights = model(batch, model.phases[0].terms), model.phases[0].terms
            optimiser.zero_grad()
            torch.stack([weights[term] * value for term, value in terms.items()]).sum().backward()
            optimiser.step()
    model.eval()
    users = torch.arange(SPACE.n_users)
    with torch.no_grad():
        scores = model.score(Query(users, part.items))[:, new]
    assert torch.equal(new[scores.argmax(1)] % 3, users % 3)


def test_a_user_without_interactions_is_embedded_through_friends() -> None:
    part, _ = planted()
    rows = part.items.to_lists()
    rows[3], rows[4] = [], []
    part = Part(Ragged.from_lists(rows), SPACE.n_items)
    space = with_relations(part)
    friend = space.graph.adjacency(("user", "friend", "user")).to_dense()
    friend[4] = friend[:, 4] = 0
    edges = {**space.graph.edges, ("user", "friend", "user"): Csr.from_dense(friend)}
    graph = HeteroGraph(space.graph.nodes).with_edges(edges)
    model = MEOWRec(hidden_dim=8).build(GraphSpace(n_users=24, n_items=30, graph=graph))
    model.setup(part)
    model.eval()
    nothing = Ragged.from_lists([[], []])
    with torch.no_grad():
        vectors, nodes = model.encode_users(Query(torch.tensor([3, 4]), nothing)), model.nodes()
    assert nodes[3].any()
    torch.testing.assert_close(vectors[0], nodes[3])
    torch.testing.assert_close(vectors[1], nodes[: SPACE.n_users][model.known_users].mean(0))


@pytest.mark.parametrize("name", NAMES)
def test_a_run_from_a_log_with_side_information(name: str, tmp_path: Path) -> None:
    """The graph comes from the training part of the split, and the bundle serves without the data."""
    part, _ = planted()
    pairs = [(user, item) for user, row in enumerate(part.items.to_lists()) for item in row]
    log = pl.DataFrame(pairs, schema=["u", "i"], orient="row").with_columns(t=pl.int_range(pl.len()))
    films = pl.DataFrame({"i": list(range(30)), "genre": [f"g{item % 3}" for item in range(30)]})
    data = rg.Interactions.from_frame(log, user="u", item="i", timestamp="t").with_features(item_features=films)
    split = data.split("leave-one-out")
    model = MEOWRec(hidden_dim=8) if name == "meowrec" else AdaMEOWRec(hidden_dim=8)
    run = rg.fit(model, split, seed=1, out=tmp_path / "run", max_epochs=2, batch_size=64, progress=False)
    space = run.model.space
    assert isinstance(space, GraphSpace)
    assert space.graph.adjacency(("user", "interacts", "item")).nnz == split.train.n_interactions
    assert space.graph.count("genre") == 3
    again = rg.load(tmp_path / "run" / "bundle")
    assert again.recommend(users=[3], k=5).equals(run.recommend(users=[3], k=5))


def test_users_and_items_that_nobody_has_met_are_recommended() -> None:
    """From the log to lists: ids without any interaction, known by a genre or by friends alone."""
    part, _ = planted()
    pairs = [(f"u{user}", item) for user, row in enumerate(part.items.to_lists()) for item in row]
    log = pl.DataFrame(pairs, schema=["u", "i"], orient="row").with_columns(t=pl.int_range(pl.len()))
    new_films = [100, 101, 102]
    films = pl.DataFrame({"i": [*range(30), *new_films]}).with_columns(genre="g" + (pl.col("i") % 3).cast(pl.String))
    names = [*(f"u{user}" for user in range(24)), "friend of u1, u4", "nobody's friend"]
    users = IdMap(pl.Series(names))
    friends = [(user, (user + 3) % 24) for user in range(24)] + [(24, 1), (24, 4), (1, 24), (4, 24)]
    graph = HeteroGraph.from_edge_lists(
        {"user": 26}, {("user", "friend", "user"): torch.tensor(friends)}, ids={"user": users}
    )
    data = rg.Interactions.from_frame(log, user="u", item="i", timestamp="t")
    data = data.with_features(item_features=films, graph=graph).with_ids(users=names, items=films["i"])
    assert (data.n_users, data.n_items) == (26, 33)
    model = MEOWRec(hidden_dim=16, user_metapaths=("user-user", "user-item-user"), contrast_weight=0, feature_mask=0.5)
    split = data.split("leave-one-out")
    run = rg.fit(model, split, seed=0, max_epochs=20, batch_size=64, learning_rate=0.02, metric="loss", patience=None)
    found = run.recommend(users=["friend of u1, u4"], k=5)
    assert found["i"].len() == 5
    assert (found["i"] % 3 == 1).mean() >= 0.8
    of_new = run.recommend(users=["u0", "u1", "u2"], k=1, allow=new_films)
    assert [film % 3 for film in of_new["i"]] == [0, 1, 2]
    with pytest.raises(NoHistoryError, match="nobody's friend"):
        run.recommend(users=["friend of u1, u4", "nobody's friend"])
    assert len(run.recommend(users=names, k=3, fallback="popularity")) == 3 * 26
    assert run.recommender.counters["fallbacks"] == 2  # of both calls
    light = rg.fit(rg.models.LightGCN(hidden_dim=8), split, seed=0, max_epochs=1)
    with pytest.raises(NoHistoryError, match="friend of u1, u4"):
        light.recommend(users=["friend of u1, u4"])


def test_the_graph_is_of_what_is_fitted_to() -> None:
    graph = HeteroGraph.from_edge_lists({"user": 2, "item": 2}, {("user", "interacts", "item"): ([0, 1], [0, 1])})
    model = MEOWRec(hidden_dim=4).build(GraphSpace(n_users=2, n_items=2, graph=graph))
    with pytest.raises(ValueError, match="was built for n_users"):
        model.setup(Part(Ragged.from_lists([[0], [1], [0]]), 2))
    assert Space(n_users=2, n_items=2) != model.space


def test_features_are_moved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Features in another type than the parameters are converted at the first forward and never again."""
    model = made("meowrec")
    assert isinstance(model, MetaPathRecommender)
    n_features = 3
    model._features = {"item": torch.rand(SPACE.n_items, n_features, dtype=torch.float64)}
    model.feature_layers = torch.nn.ModuleDict({"item": torch.nn.Linear(n_features, model.config.hidden_dim)})
    first = model.own_vectors()
    moved, converted = model._placed(model._features["item"]), torch.Tensor.to
    calls: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "to", lambda x, *a, **k: calls.append(x) or converted(x, *a, **k))
    assert torch.equal(model.own_vectors(), first)
    assert not calls
    assert moved.dtype == torch.float32
    assert model._placed(model._features["item"]) is moved


def test_types_of_nodes_have_any_name(tmp_path: Path) -> None:
    """They are columns of a user's features: PyTorch has own meanings for some, and keeps others from having a dot."""
    names = ["type", "items", "keys", "values", "pop", "half", "a.b", "a%2Eb", "training", "%", "%type", "[/]", "a b"]
    groups = [f"g{i % 3}" for i in range(11)]
    interactions = rg.Interactions.from_frame(
        pl.DataFrame({"user_id": [i % 8 for i in range(64)], "item_id": [i * 7 % 11 for i in range(64)]}),
        user="user_id",
        item="item_id",
    ).with_features(item_features=pl.DataFrame({"item_id": range(11), **dict.fromkeys(names, groups)}))
    split = interactions.split("ratio", seed=0)
    run = rg.fit(MEOWRec(hidden_dim=4), split, seed=0, max_epochs=1, out=tmp_path / "run")
    own = run.recommender
    assert isinstance(own.model.space, GraphSpace)
    assert {*names} <= {*own.model.space.graph.node_types}
    again = rg.Run.open(tmp_path / "run").recommender.recommend(users=[0, 1], k=3)
    assert again.equals(own.recommend(users=[0, 1], k=3))
