"""How much memory models need, by family, for their :meth:`recgraph.models.base.Model.memory_needs`.

The numbers are upper estimates: ``tests/runs/test_memory_limit.py`` measures what a process really takes, which is
less. They count what is saved for the backward pass, tensor by tensor, in the layers of each family.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recgraph import registry
from recgraph.blocks import BYTES_HOST, FEWEST_ROWS
from recgraph.graph.hetero import HeteroGraph
from recgraph.graph.metapath import MetaPath
from recgraph.graph.pathsim import estimate_nnz, steps_of
from recgraph.losses.pairwise import OwnNegatives
from recgraph.losses.scores import MANY
from recgraph.memory import Needs, Workload, state_bytes

__all__ = [
    "autoencoder_needs",
    "graph_needs",
    "item_matrix_needs",
    "largest_batch",
    "neighbour_needs",
    "pair_needs",
    "recommender_needs",
    "relation_needs",
    "ridge_needs",
    "sample_sizes",
    "sequence_needs",
    "user_filter_needs",
]

_FLOAT = 4
#: of a sampled score: its places by target and by item, the sort of these, the score, what a loss computes of it
_SAMPLED_PLACE = 96
#: padding inside buckets of one attention, and what the allocator leaves between tensors
_SLACK = 1.1
_FULL, _SAMPLED = map(registry.key, ("full_softmax", "sampled_softmax"))
#: what counting pairs of items takes, whatever their number
_COUNTING = 96 * 2**20
#: how far a batch may lie above the mean, in standard deviations
_DEVIATIONS = 6


def blocks(n_rows: int, n_columns: int) -> int:
    """A block of an [n_rows, n_columns] matrix and what is computed beside it."""
    whole = _FLOAT * n_rows * n_columns
    return 3 * min(whole, max(BYTES_HOST, _FLOAT * FEWEST_ROWS * n_columns))


def largest_batch(counts: Tensor, batch_size: int) -> int:
    """Tokens of the largest batch to be expected.

    Args:
        counts: [L + 1], how many samples have 0 ... L tokens.
    """
    n_samples = int(counts.sum())
    sizes = torch.arange(len(counts), dtype=torch.float64)
    if not n_samples:
        return 0
    if batch_size >= n_samples:
        return int((sizes * counts).sum())
    mean = float((sizes * counts).sum()) / n_samples
    deviation = math.sqrt(max(float((sizes**2 * counts).sum()) / n_samples - mean**2, 0.0))
    likely = mean * batch_size + _DEVIATIONS * deviation * math.sqrt(batch_size)
    return min(math.ceil(likely), batch_size * (len(counts) - 1))


def sample_sizes(lengths: Tensor, max_len: int, regime: str) -> Tensor:
    """[L + 1] int64: how many training samples of a sequence model have 0 ... L tokens."""
    inputs = (lengths - 1).clamp(min=0)
    if regime != "prefix":
        counts = torch.bincount(inputs.clamp(max=max_len), minlength=2)
        counts[0] = 0
        # of masked items the last one is read, too
        return counts if regime == "causal" else torch.cat([counts[:1], counts])
    # a prefix of each length up to that of the user; longer ones are cut
    of_users = torch.bincount(inputs, minlength=2)
    at_least = of_users.flip(0).cumsum(0).flip(0)
    at_least[0] = 0
    cut = at_least[: max_len + 1].clone()
    cut[-1] += at_least[max_len + 1 :].sum()
    return cut


def sequence_needs(model: Any, work: Workload, n_sets: float = 1) -> Needs:
    """Of a sequence model.

    Args:
        n_sets: how many sequences are encoded for a sample, in its length: views beside the sequence itself.
    """
    config = model.config
    parameters, buffers = state_bytes(model, work.space, work.n_shards)
    sizes = sample_sizes(work.lengths, config.max_len, config.regime)
    if (step := getattr(config, "window_items", None)) is not None:
        sizes[-1] += int(((work.lengths - config.max_len - 1).clamp(min=0) / step).ceil().sum())
    tokens = largest_batch(sizes, work.batch_size)
    n_rows = min(work.batch_size, int(sizes.sum()))
    width = config.hidden_dim
    longest = len(sizes) - 1
    of_tokens = math.ceil(getattr(config, "mask_ratio", 1.0) * tokens) + n_rows
    targets = n_rows if config.regime == "prefix" else min(tokens, of_tokens)
    # of views, and of prefixes, the last layer computes the last place alone, and of masked items these
    whole, last = token_floats(config, longest), token_floats(config, longest, last_only=True)
    of_rows = last if config.regime == "prefix" else last + (whole - last) * targets / max(tokens, 1)
    step = _SLACK * _FLOAT * tokens * (of_rows + (n_sets - 1) * last)
    step += _FLOAT * targets * 6 * width + loss_block(config, targets, work.n_items, width)
    if n_sets > 1:
        step += 2 * blocks(2 * n_rows, 2 * n_rows) + _FLOAT * 2 * n_rows * 16 * width
    if config.item_features:
        step += 4 * _FLOAT * work.n_items * width
    row_tables = 0
    # without gradients one layer is there at a time, and of that layer one half
    scoring = _FLOAT * 256 * longest * token_floats(config, longest) / max(getattr(config, "n_layers", 2), 1)
    batches = 8 * work.n_interactions * (6 if config.regime == "prefix" else 3)
    held, fitting = {"batches": batches}, 0
    if config.item_graph is not None:
        graph = registry.load("item_graph", config.item_graph)
        held["item graph"], fitting = graph.memory(config.item_graph_options, work)
        step += 8 * _FLOAT * work.n_items * width
        step += blocks(n_rows, work.n_items) if config.item_contrast else 0
    return Needs(
        parameters, buffers, held, fitting=fitting, step=int(step), scoring=int(scoring), row_tables=row_tables
    )


def _of_rows(n_rows: int, width: int) -> int:
    """Distinct rows of a table: read twice, their gradients and the sum of these, two moments and the step."""
    return 7 * _FLOAT * n_rows * width


def token_floats(config: Any, length: int, last_only: bool = False) -> float:
    """Numbers that an encoder saves for each token of a sequence of some length.

    Args:
        last_only: the last layer computes keys and values of all places, and all else of the last.
    """
    width = config.hidden_dim
    n_layers, inner = getattr(config, "n_layers", 2), getattr(config, "inner_dim", 4 * width)
    heads = getattr(config, "n_heads", 1)
    saved = registry.load("encoder", config.encoder).saved(config.encoder_options)
    # qkv by heads, outputs, residuals, norms and masks of dropout; the feed-forward part; weights of pairs
    of_layer = saved.width * width + saved.inner * inner + saved.weights * heads * length
    if last_only:
        return float((n_layers - 1) * of_layer + saved.last * width + saved.shared * length)
    return float(n_layers * of_layer + 8 * width + saved.shared * length)


def _negatives(config: Any) -> tuple[int, bool, int]:
    """How many negatives the recommendation loss draws, whether each target has its own, and for how many groups of
    targets they are drawn where not."""
    given = {} if config.n_negatives is None else {"n_negatives": config.n_negatives}
    loss = registry.make("loss", {"name": config.loss, **config.loss_options}, given)
    is_own = isinstance(loss, OwnNegatives) and not loss.config.shared
    return getattr(loss.config, "n_negatives", 0), is_own, getattr(loss.config, "n_groups", 1)


def loss_block(config: Any, n_targets: int, n_items: int, width: int) -> int:
    """The scores of a recommendation loss."""
    (n_negatives, is_own, n_groups), loss = _negatives(config), registry.key(config.loss)
    if loss == _FULL:
        return blocks(n_targets, n_items + 1)
    if loss == _SAMPLED:
        return blocks(n_targets, n_negatives) + 3 * _FLOAT * n_negatives * width
    if not is_own:
        # what is computed of a block of scores, a mask of all, and for weights of pairs three numbers of each and, of
        # groups, its item
        weighs, vectors = hasattr(config, "negative_weights"), 3 * _FLOAT * n_groups * n_negatives * width
        of_each = 1 + weighs * (3 * _FLOAT + 8 * (n_groups > 1))
        return 2 * blocks(n_targets, n_negatives) + vectors + of_each * n_targets * n_negatives
    # every target has negatives of its own: their scores and places, and the gradients of distinct rows
    places = n_targets * (n_negatives + 1)
    return _SAMPLED_PLACE * places + 3 * _FLOAT * min(places, n_items) * width


def pair_needs(model: Any, work: Workload, n_views: int = 0, state: bool = True, by_rows: bool = False) -> Needs:
    """Of a model with a vector for each user and item.

    Args:
        n_views: propagations of a step beside the one that recommends, each over an adjacency of its own.
        state: whether parameters and buffers are counted.
        by_rows: whether a step may touch some rows of the table alone.
    """
    config, n_nodes, n_edges = model.config, work.n_users + work.n_items, work.n_interactions
    parameters, buffers = state_bytes(model, work.space, work.n_shards) if state else (0, 0)
    table, n_layers = _FLOAT * n_nodes * config.hidden_dim // work.n_shards, getattr(config, "n_layers", 0)
    n_rows = min(work.batch_size, max(n_edges, 1))
    n_negatives, is_own, _ = _negatives(config)
    step = (n_layers + 2) * table * (1 + n_views) if n_layers else 2 * table
    # vectors of user, item and negatives, and their gradients; of many negatives scores alone, and their places by item
    places = n_rows * ((n_negatives if is_own else 0) + 2)
    looked_up = places if n_negatives < MANY else 2 * n_rows
    step += 2 * _FLOAT * config.hidden_dim * looked_up + 24 * looked_up + _SAMPLED_PLACE * (places - looked_up)
    if not is_own:
        step += loss_block(config, n_rows, work.n_items, config.hidden_dim)
    if n_views:
        step += 2 * table + 2 * blocks(n_rows, work.n_users if getattr(config, "candidates", "") == "all" else n_rows)
    # users, items and places of the samples, their order, the sums that negatives are drawn by
    held = {"batches": 80 * n_edges}
    fitting = 0
    if n_layers:
        # edges, and indices and weights in both directions
        adjacency = 24 * n_edges + 16 * n_nodes
        held["adjacency"] = (20 * n_edges) + adjacency * (1 + n_views)
        fitting = 80 * n_edges
    row_tables = 0
    return Needs(parameters, buffers, held, fitting=fitting, step=step, ranking=table, row_tables=row_tables)


def item_matrix_needs(work: Workload, cell: int) -> Needs:
    """Of EASE: the float32 weights of items by items, and the matrix that is solved.

    Args:
        cell: bytes of a cell of that matrix; 0 where it is solved in the place of the weights.
    """
    cells, rows = work.n_items**2, 40 * work.n_interactions
    fitting = cell * cells + rows + 2 * blocks(work.n_items, work.n_items)
    return Needs(buffers=_FLOAT * cells, fitting=fitting, scoring=rows // 8)


def neighbour_needs(model: Any, work: Workload) -> Needs:
    """Of ItemKNN, SLIM and Turbo-CF: a list of weighted neighbours for each item, made from blocks of rows."""
    kept = 12 * work.n_items * min(model.config.k, work.n_items)
    fitting = 96 * work.n_interactions + min(_COUNTING, 12 * _FLOAT * work.n_items**2) + kept
    return Needs(buffers=kept, fitting=fitting, scoring=2 * _FLOAT * 256 * work.n_items)


def user_filter_needs(model: Any, work: Workload, n_signals: int, is_dense: bool) -> Needs:
    """Of GF-CF: the training matrix, singular vectors of items, and signals on users and items.

    Args:
        n_signals: histories that are filtered at a time.
        is_dense: whether singular vectors are found in a dense copy of the matrix.
    """
    width = min(model.config.n_factors, work.n_users, work.n_items)
    kept = 8 * (work.n_interactions + work.n_users) + _FLOAT * width * work.n_items
    sides = work.n_users + work.n_items
    # the basis of Lanczos is twice as wide, on the shorter side; vectors of both sides come out
    fitting = 8 * width * (2 * min(work.n_users, work.n_items) + sides) + 64 * work.n_interactions
    if is_dense:  # a copy, that of LAPACK, and vectors of the longer side
        fitting += 4 * 8 * work.n_users * work.n_items
    matrices = 64 * work.n_interactions + 2 * _FLOAT * width * work.n_items
    return Needs(buffers=kept, fitting=fitting, scoring=2 * _FLOAT * n_signals * sides + matrices)


def ridge_needs(model: Any, work: Workload) -> Needs:
    """Of IALS: vectors of users and items, and blocks of normal equations."""
    width = model.config.hidden_dim
    vectors = _FLOAT * width * (work.n_users + work.n_items)
    longest = int(work.lengths.max()) if work.lengths.numel() else 0
    block = _FLOAT * (1 << 22) * 6 + 3 * _FLOAT * longest * width
    return Needs(buffers=_FLOAT * width * work.n_items, fitting=3 * vectors + 64 * work.n_interactions + block)


def graph_needs(model: Any, work: Workload, paths: Sequence[MetaPath]) -> Needs:
    """Of a model that embeds the nodes of one type of a graph by meta-paths, and holds their matrices."""
    config, graph = model.config, work.space.graph
    routes = [path.route(graph) for path in paths]
    types = dict.fromkeys([routes[0][0].start, *(step.end for route in routes for step in route[:-1])])
    width, n_nodes = config.hidden_dim, work.n_items
    inputs = {name: model.features_of(graph, name) for name in types}
    widths = [graph.count(name) if x is None else int(x.shape[1]) for name, x in inputs.items()]
    parameters = sum(_FLOAT * width * (n + 1) for n in widths)
    parameters += _FLOAT * width * width * (6 + sum(map(len, routes)))
    is_sampled = getattr(config, "mini_batch", False)
    held, fitting = path_bytes(paths, graph, with_contexts=not is_sampled)
    fitting = max(fitting, _spectral_bytes(model, graph, routes[0][0].start))
    features = sum(0 if x is None else x.nbytes for x in inputs.values())
    n_views = 2 * len(paths)
    n_step = min(n_nodes, work.batch_size * _reached(config)) if is_sampled else n_nodes
    step = _SLACK * view_floats(n_step, n_views, width, is_sampled) * _FLOAT + 4 * blocks(n_step, n_step) + 2 * features
    step += 4 * _FLOAT * width * sum(graph.count(name) for name in types)
    ranking = _FLOAT * width * n_nodes * n_views * 4
    return Needs(parameters, 0, {**held, "features": 2 * features}, fitting=fitting, step=int(step), ranking=ranking)


def autoencoder_needs(model: Any, work: Workload, paths: Sequence[MetaPath]) -> Needs:
    """Of a model that attends to neighbours along meta-paths, and restores attributes and edges."""
    config, graph, n, width = model.config, work.space.graph, work.n_items, model.config.hidden_dim
    x = model.features_of(graph, paths[0].route(graph)[0].start)
    n_features, n_layers = n if x is None else int(x.shape[1]), config.n_layers + 1
    layers = n_layers * (len(paths) * (width * width + 5 * width) + 128 * (width + 2))
    parameters = _FLOAT * (width * (2 * n_features + 1) + n_features + layers + 3 * width * width)
    held, fitting = path_bytes(paths, graph, with_contexts=False)
    fitting = max(fitting, _spectral_bytes(model, graph, paths[0].route(graph)[0].start))
    entries = [path.cost(graph).nnz for path in paths]
    n_drawn = sum(entries) if config.n_neighbours is None else sum(min(e, n * config.n_neighbours) for e in entries)
    # of each layer and path inputs, products, heads, norm and activation; of each entry and head scores and shares
    vectors = n_layers * len(paths) * n * (8 * width + 128)
    scores = n_drawn * (6 * (config.n_heads * config.n_layers + 1) + 8)
    # what is kept of the edges, and the orders that it is drawn by
    drawing = 32 * max(entries)
    features = 0 if x is None else x.nbytes
    step = (
        int(_SLACK * _FLOAT * 2 * (vectors + scores)) + drawing + 2 * features + 4 * _FLOAT * (width + 1) * n_features
    )
    ranking = 20 * _FLOAT * max(entries) + 8 * _FLOAT * n * width * len(paths)
    return Needs(parameters, 0, {**held, "features": 2 * features}, fitting=fitting, step=step, ranking=ranking)


def relation_needs(model: Any, work: Workload) -> Needs:
    """Of a model that takes means over all edge types in both directions, and holds the edges alone."""
    config, graph, n, width = model.config, work.space.graph, work.n_items, model.config.hidden_dim
    inputs = {name: model.features_of(graph, name) for name in graph.node_types}
    widths = {name: graph.count(name) if x is None else int(x.shape[1]) for name, x in inputs.items()}
    edges = [graph.adjacency(edge_type) for edge_type in graph.edge_types]
    matrices = 2 * len(edges) * config.n_layers + 4
    parameters = _FLOAT * width * (sum(widths.values()) + max(widths.values()) + matrices * (width + 1))
    # both directions, with weights, rows, and the transposes of backward
    held = {"relations": sum(80 * adj.nnz + 32 * sum(adj.shape) for adj in edges)}
    features = sum(0 if x is None else x.nbytes for x in inputs.values())
    vectors = sum(5 * graph.count(name) for name in inputs) + sum(4 * config.n_layers * sum(adj.shape) for adj in edges)
    step = int(_SLACK * _FLOAT * (width * (vectors + 20 * n) + 10 * width * width)) + 2 * features
    fitting = _spectral_bytes(model, graph, MetaPath(config.metapaths[0]).route(graph)[0].start)
    held["features"] = 2 * features
    return Needs(parameters, 0, held, fitting=fitting, step=step, ranking=step // 2)


def _spectral_bytes(model: Any, graph: Any, target: str) -> int:
    """What spectral coordinates take while they are made: blocks of vectors of all nodes, and edges in both directions.

    Types without features need none where they begin at random.
    """
    if not model.has_spectral_rows(graph, target):
        return 0
    nodes = sum(graph.count(name) for name in graph.node_types)
    edges = sum(graph.adjacency(edge_type).nnz for edge_type in graph.edge_types)
    return int(6 * _FLOAT * model.config.hidden_dim * nodes + 100 * edges)


def recommender_needs(model: Any, work: Workload, sides: Sequence[Sequence[MetaPath]]) -> Needs:
    """Of a recommender that embeds users and items by the meta-paths of either side."""
    config, graph = model.config, work.space.graph
    needs = pair_needs(model, work, n_views=1, state=False)
    held, fitting = path_bytes([path for side in sides for path in side], graph)
    width = config.hidden_dim
    counts = (work.n_users, work.n_items)
    views = sum(view_floats(n, 2 * len(paths), width) for n, paths in zip(counts, sides, strict=True))
    others = {step.end for side in sides for path in side for step in path.route(graph)[:-1]} - {"user", "item"}
    n_nodes = work.n_users + work.n_items + sum(graph.count(name) for name in others)
    features = sum(x.nbytes for name in ("user", "item") if (x := graph.features(name)) is not None)
    # a table of weights for other types; layers of features, paths and heads are small beside it
    parameters = _FLOAT * width * n_nodes + _FLOAT * width * (12 * width + features // max(_FLOAT * n_nodes, 1))
    step = needs.step + int(_SLACK * _FLOAT * views) + _FLOAT * width * n_nodes
    return Needs(
        parameters,
        needs.buffers,
        {**needs.held, **held, "features": 2 * features},
        fitting=needs.fitting + fitting,
        step=step,
        ranking=needs.ranking + _FLOAT * views,
    )


def view_floats(n_nodes: int, n_views: int, width: int, is_sampled: bool = False) -> int:
    """Numbers that are saved for the views of nodes: contexts, two convolutions, attention, normalisation.

    Args:
        is_sampled: whether they are those that a batch reaches, of which the outer ones are convolved once.
    """
    return width * n_nodes * (7 * n_views + 12 if is_sampled else 14 * n_views + 8)


def path_bytes(paths: Sequence[MetaPath], graph: HeteroGraph, with_contexts: bool = True) -> tuple[dict[str, int], int]:
    """Component -> bytes that the matrices of paths take, with their twins; and what composing them takes."""
    adjacencies, contexts = [], 0
    for path in paths:
        cost = path.cost(graph)
        adjacencies.append(cost.factor_nbytes if path.config.form == "factorised" else cost.nbytes)
        if with_contexts:
            steps = steps_of(path.route(graph), graph, False)
            # indices of both directions, and the row of each entry
            contexts += sum(32 * estimate_nnz(steps[:hop])[0] for hop in range(1, len(steps)))
    # plain and normalised, the twin with places of its own; one is composed at a time
    return {"adjacencies": 3 * sum(adjacencies), "contexts": contexts}, 3 * max(adjacencies, default=0) + 4 * BYTES_HOST


def _reached(config: Any) -> int:
    """Nodes that one node of a batch sees at most."""
    of_layers = [math.prod(one or 64 for one in fan_out) for fan_out in config.fan_out]
    return 1 + math.prod(one + 1 for one in of_layers)
