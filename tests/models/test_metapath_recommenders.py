"""MEOW and AdaMEOW as recommenders: what they are made of, their special cases, and items that
nobody has had yet.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from collaborative_cases import SPACE, first_batch, made, planted, with_relations
from refusing import refused

from recgraph import registry
from recgraph.contrast.prototypes import proto_nce, prototypes_of
from recgraph.data.batches import Query
from recgraph.data.part import Part
from recgraph.graph.hetero import HeteroGraph
from recgraph.models.heterogeneous.base import GraphSpace
from recgraph.models.heterogeneous.recommender import AdaMEOWRec, MEOWRec, MetaPathRecommender
from recgraph.rng import Generators
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


@pytest.mark.parametrize("encoder", [None, "gcn"])
def test_the_three_ways_to_recommend(encoder: str | None) -> None:
    scored = {}
    for by in ("interactions", "fine", "both"):
        model = made("meowrec", recommend_by=by, view_encoder=encoder)
        assert isinstance(model, MetaPathRecommender)
        first_batch(model)
        scored[by] = model.eval().nodes()
    torch.testing.assert_close(scored["interactions"] + scored["fine"], scored["both"])
    assert not torch.allclose(scored["interactions"], scored["fine"])


def test_the_terms_of_meow() -> None:
    """Cluster-weighted InfoNCE without the positive, from own vectors to fine views, and ProtoNCE;
    users plus items.
    """
    model = made(
        "meowrec",
        dropout=0.0,
        twins={"node_mask": 0.0},
        prototypes={"n_clusters": (3, 5)},
        contrast={"temperature": 0.4},
    ).double()
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


def test_masks_come_with_the_weights_that_were_trained_on_them() -> None:
    trained, other = made("meowrec", seed=1), made("meowrec", seed=2)
    before = other.eval().nodes()
    other.load_state_dict(trained.state_dict())
    assert not torch.equal(other.eval().nodes(), before)
    assert torch.equal(other.nodes(), trained.eval().nodes())


def test_the_term_of_adameow() -> None:
    """InfoNCE from fine views to own vectors, each pair weighted by a network of its side."""
    model = made(
        "adameowrec", dropout=0.0, twins={"node_mask": 0.0}, contrast={"temperature": 0.4}
    ).double()
    assert isinstance(model, AdaMEOWRec)
    batch = first_batch(model)
    term = model(batch, ["info"])["info"]
    own, fine = _own_and_fine(model)
    expected = torch.zeros((), dtype=torch.float64)
    for number, (start, chosen) in enumerate(
        ((0, batch.users.unique()), (SPACE.n_users, batch.items.unique()))
    ):
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
    with refused("user_metapaths"):
        made("meowrec", user_metapaths=("item-genre-item",))
    with refused("item_metapaths"):
        made("meowrec", item_metapaths=())
    with pytest.raises(ValueError):
        MEOWRec().build(SPACE)


@pytest.mark.parametrize("name", NAMES)
def test_new_items_are_found_through_their_genre(name: str) -> None:
    """A tenth of the items is in no interaction; users still get those of their own group first."""
    part, _ = planted()
    new = torch.tensor([27, 28, 29])
    rows = [[item for item in row if item not in new.tolist()] for row in part.items.to_lists()]
    part = Part(Ragged.from_lists(rows), SPACE.n_items)
    cls: type[MetaPathRecommender] = registry.load("model", name)
    model = cls(hidden_dim=16, recommend_by="both", twins={"node_mask": 0.5}).build(
        with_relations(part), 0
    )
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
