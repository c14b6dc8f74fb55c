"""The trainings that ``same_numbers.py`` compares, and the small graphs that they read.

A case is called by what it sets: the model, all settings that are not the family's, and the data
set where it is a graph.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import scipy.sparse as sp

LOG, RECOMMENDATION, NODES = "synthetic", "tiny-rec", "tiny-nodes"

_CLUSTERS = "prototypes.n_clusters=[6,15]"

#: data set, settings of the family, cases
FAMILIES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    (
        LOG,
        (),
        (
            "popularity",
            "popularity split=time",
            "popularity split=ratio split_seed=3",
            "popularity split=ratio split_options.order=time split_options.test=0.2",
            "itemknn k=20",
            "itemknn k=20 normalise=true",
            "rp3beta k=20",
            "ease",
            "ease split=users split_seed=3",
            "slim k=20",
            "gfcf n_factors=16",
            "turbocf filter=third power=0.7 k=300",
            "bspm n_factors=16",
            "transitions",
            "ials hidden_dim=16 n_iterations=3",
            "ials hidden_dim=16 n_iterations=3 frequency_power=0.5",
            'twostage ranker.max_iter=20 models=["ease",{"name":"itemknn","k":20}] candidates=30',
            'twostage ranker.max_iter=20 models=["itemknn",{"name":"bprmf","max_epochs":2}] max_users=40 split=time',
        ),
    ),
    (
        LOG,
        ("max_epochs=2", "learning_rate=0.005", "hidden_dim=16"),
        (
            "bprmf",
            "bprmf loss=bce loss.n_negatives=4 loss.popularity_power=0.5",
            "bprmf loss=full_softmax",
            "bprmf loss=ccl loss.n_negatives=20 init_std=0.01",
            "bprmf loss=sampled_softmax loss.n_negatives=32",
            "bprmf loss.n_negatives=32 loss.shared=true",
            "lightgcn",
            "lightgcn split=users",
            "simplex loss.n_negatives=20",
            "simplex loss.n_negatives=20 loss.shared=true exclude_own=false",
            "bprmf loss=ccl loss.n_negatives=20 loss.shared=true loss.n_groups=4",
            "bprmf loss=ccl loss.n_negatives=20 loss.dropout=0.1",
            "simplex aggregator=user_attention history_table=true",
            "simplex loss.n_negatives=20 aggregator=user_attention own_weight=0.8",
            "simplex loss.n_negatives=20 aggregator=self_attention",
            "simplex aggregator=user_attention aggregator.n_places=40 aggregator.init=xavier",
            "ultragcn loss.n_negatives=20",
            "sgl",
            'sgl augmentations=[{"name":"node_drop","ratio":0.1}]',
            "sgl each_layer=true candidates=batch",
            "sgl contrast.weight=cluster contrast.weight.n_clusters=[3,7] candidates=batch",
            "simgcl",
            "simgcl contrast.weight=learned",
            "simgcl contrast.weight=hardness",
            "xsimgcl",
            "xsimgcl contrast.similarity=dot contrast.temperature=1.0 contrast.weight=self_mask",
            "ncl prototypes.n_clusters=[3,7] warm_up_epochs=1",
            "ncl contrast.weight=cluster prototypes.n_clusters=[7] warm_up_epochs=0 candidates=batch",
        ),
    ),
    (
        LOG,
        ("max_epochs=2", "learning_rate=0.005", "hidden_dim=16", "max_len=20"),
        (
            "hstu",
            "hstu encoder.n_heads=2 regime=prefix",
            "hstu encoder.time_bias=true",
            "mclrec encoder=hstu encoder.n_heads=2",
        ),
    ),
    (
        LOG,
        (
            "encoder.inner_dim=32",
            "max_epochs=2",
            "learning_rate=0.005",
            "hidden_dim=16",
            "max_len=20",
        ),
        (
            "gru4rec",
            "gru4rec regime=prefix",
            "sasrec",
            "sasrec regime=prefix",
            "sasrec loss=sampled_softmax loss.n_negatives=32",
            "sasrec loss=sampled_softmax loss.n_negatives=32 loss.popularity_power=0.5 loss.log_q=false regime=prefix",
            "sasrec loss=sampled_softmax loss.in_batch=true loss.similarity=cosine optimiser=adamw",
            "sasrec loss=bce loss.n_negatives=32",
            "sasrec loss=bce loss.n_negatives=32 loss.calibration=0.75 regime=prefix",
            "sasrec loss=bpr loss.n_negatives=32",
            "sasrec loss=bce loss.n_negatives=32 loss.shared=true",
            "sasrec loss=bce loss.n_negatives=32 loss.shared=true loss.n_groups=4",
            "sasrec loss.block_rows=7 loss.pad_candidate=false",
            "sasrec items.graph=interactions",
            "sasrec items.graph_weight=0.1 items.graph=transitions items.graph.window=3",
            "mclrec items.graph_weight=0.1 items.graph=interactions items.candidates=all items.augmenter=mlp",
            "sasrec encoder=gru encoder.n_layers=2",
            "sasrec encoder=gru encoder.n_layers=2 regime=prefix",
            "sasrec encoder=bsa",
            "sasrec encoder=bsa regime=prefix",
            "sasrec encoder=gated_transformer",
            "sasrec encoder=gated_transformer regime=prefix",
            "sasrec split=time",
            "sasrec split=users",
            "sasrec schedule=step drop_after=[1] drop_factor=0.5",
            "gru4rec accumulate=2 clip_norm=0.5 schedule=cosine warmup_steps=3 weight_decay=0.01",
            "sasrec precision=bf16 metric=loss schedule=linear",
            "bert4rec",
            "bert4rec loss=sampled_softmax loss.n_negatives=32 mask_ratio=0.5 last_share=0 time_gaps=true",
            "sasrec encoder=bidirectional_transformer regime=prefix",
            "bsarec",
            "bsarec encoder.alpha=0.3 encoder.c=3 regime=causal",
            "esasrec loss.n_negatives=32",
            "esasrec loss.n_negatives=32 regime=prefix",
            "fuxialpha",
            "fuxialpha encoder.n_heads=2 regime=prefix",
            "fuxialpha encoder.time_bias=true",
            "cl4srec",
            "cl4srec contrast.similarity=cosine contrast.temperature=0.5 regime=prefix",
            'cl4srec augmentations=["crop"]',
            'cl4srec augmentations=["mask"]',
            'cl4srec augmentations=["reorder"]',
            'cl4srec augmentations=["insert"]',
            'cl4srec augmentations=["substitute"]',
            'cl4srec regime=prefix augmentations=["crop","mask","reorder","insert","substitute"]',
            "cl4srec contrast_of=sequence",
            "cl4srec contrast.weight=cluster contrast.weight.n_clusters=[3,7]",
            "cl4srec contrast.weight=learned",
            "cl4srec contrast.weight=learned contrast.weight.normalise=true regime=prefix",
            "cl4srec contrast.weight=same_target",
            "cl4srec contrast.weight=self_mask",
            "cl4srec encoder=gru encoder.n_layers=2 loss=bpr loss.n_negatives=32",
            "duorec",
            "duorec regime=prefix",
            "duorec contrast.weight=none",
            "duorec intent_weight=0.1 n_intents=5",
            "mclrec",
            "mclrec regime=prefix",
            "mclrec schedule_of_phases=paper margin_form=paper",
            "mclrec schedule_of_phases=joint shared_augmenter=true",
            "mclrec augmenter=attention",
            "mclrec augmenter=attention augmenter.variant=published regime=prefix",
            "mclrec augmenter=conv",
            "mclrec augmenter=conv augmenter.variant=published batch_size=16",
            "mclrec latent_weight=0",
            "mclrec augmentations=[]",
            "mclrec contrast.weight=cluster contrast.weight.n_clusters=[3,7]",
            "mclrec contrast.weight=learned",
            "mclrec contrast.weight=same_target regime=prefix",
            "mclrec contrast.weight=self_mask",
            "mclrec encoder=bsa",
            "mclrec encoder=gated_transformer loss=sampled_softmax loss.n_negatives=32",
            "mclrec encoder=gru encoder.n_layers=2",
            "cl4srec encoder=fu_xi encoder.n_heads=2",
        ),
    ),
    (
        LOG,
        ("max_epochs=2", "learning_rate=0.005", "hidden_dim=16", "batch_size=512"),
        (
            f"meowrec {_CLUSTERS}",
            "adameowrec",
        ),
    ),
    (
        RECOMMENDATION,
        ("max_epochs=2", "learning_rate=0.005", "hidden_dim=16", "batch_size=512"),
        (
            "bprmf",
            f"meowrec {_CLUSTERS}",
            f"meowrec projection_dim=12 recommend_by=fine view_encoder=gcn {_CLUSTERS}",
            f"meowrec recommend_by=interactions paths.counts=binary twins.kind=latent {_CLUSTERS}",
            f'meowrec contrast.weight=learned paths.top_k=none twins.kind="none" {_CLUSTERS}',
            "adameowrec",
            "adameowrec twins.kind=latent twins.augmenter=conv view_encoder=gcn",
            "adameowrec contrast.objective.block_rows=16 contrast.weight=cluster contrast.weight.n_clusters=[3,7]",
        ),
    ),
    (
        NODES,
        (
            *(
                "max_epochs=2",
                "learning_rate=0.005",
                "hidden_dim=16",
                "probe.repeats=2",
                "probe.steps=20",
            ),
            'metapaths=["paper-author-paper","paper-subject-paper"]',
        ),
        (
            f"meow {_CLUSTERS}",
            f"meow paths.top_k=5 paths.ties=cosine {_CLUSTERS} prototypes.method=scikit-learn",
            f"meow paths.form=factorised paths.normalisation=symmetric {_CLUSTERS} prototypes.warm_start=true",
            f"meow projection_dim=12 contrast.weight=learned twins.kind=latent {_CLUSTERS}",
            f'meow contrast.objective.block_rows=50 paths.counts=binary twins.kind="none" {_CLUSTERS}',
            f"meow mini_batch=true batch_size=64 contrast.queue_size=100 {_CLUSTERS}",
            "adameow",
            "adameow contrast.weight.normalise=true",
            "adameow contrast.weight=self_mask paths.normalisation=row twins.kind=latent twins.augmenter=mlp",
            "adameow mini_batch=true batch_size=64 contrast.queue_size=100 sampling.replace=true",
            "heco",
            "heco n_neighbours=[3,1] n_positives=3 contrast.objective.block_rows=50",
        ),
    ),
    (
        NODES,
        ('metapaths=["paper-author-paper"]', "probe.repeats=2", "probe.steps=20"),
        ("spectral hidden_dim=16",),
    ),
)


def _cases() -> Iterator[tuple[str, list[str]]]:
    for dataset, shared, names in FAMILIES:
        for name in names:
            model, *own = name.split()
            settings = [part for setting in (*shared, *own) for part in ("--set", setting)]
            yield (
                name if dataset == LOG else f"{name} on {dataset}",
                [model, "--dataset", dataset, *settings],
            )


#: name -> arguments of ``recgraph train``
CASES: dict[str, list[str]] = dict(_cases())
assert len(CASES) == sum(len(names) for _, _, names in FAMILIES), "two cases have one name"

#: a case of each kind of model, for every run of the tests
QUICK = (
    "popularity",
    "itemknn k=20",
    "ease",
    "transitions",
    "bprmf",
    "lightgcn",
    "simgcl",
    "xsimgcl",
    "ultragcn loss.n_negatives=20",
    "sasrec",
    "sasrec regime=prefix",
    "sasrec loss=sampled_softmax loss.n_negatives=32",
    "gru4rec",
    "hstu",
    "bsarec",
    "bert4rec",
    "cl4srec",
    "duorec",
    "mclrec",
    f"meowrec {_CLUSTERS} on tiny-rec",
    f"meow {_CLUSTERS} on tiny-nodes",
    "adameow on tiny-nodes",
    "heco on tiny-nodes",
)
assert {*QUICK} <= {*CASES}
#: cases of models that compute in float32 whatever they are given
SINGLE = {"transitions", "turbocf filter=third power=0.7 k=300"}


def write_data(folder: Path) -> None:
    """Write the cards of the two graphs, and the files of each in a folder of its name."""
    draw = np.random.default_rng(7)
    _write_recommendation(folder / RECOMMENDATION, draw)
    _write_nodes(folder / NODES, draw)


def _write_recommendation(folder: Path, draw: np.random.Generator) -> None:
    """150 users of 100 items in five groups, friends, and tags of items."""
    folder.mkdir(parents=True)
    items = np.arange(100)
    pairs = []
    for user in range(150):
        likes = np.where(items % 5 == user % 5, 8.0, 1.0)
        pairs += [
            (user, int(item))
            for item in draw.choice(items, 12, replace=False, p=likes / likes.sum())
        ]
    edges = {
        "user_item": sorted({*pairs, *((int(item) % 150, int(item)) for item in items)}),
        "user_user": sorted(
            {(int(a), int(b)) for a, b in draw.integers(0, 150, (400, 2)) if a != b}
        ),
        "item_tag": sorted(
            {
                *((int(i), int(i) % 15) for i in items),
                *map(tuple, draw.integers(0, [100, 15], (150, 2)).tolist()),
            }
        ),
    }
    _write_edges(folder, edges)
    _write_card(
        folder,
        {"user": "count = 150", "item": "count = 100", "tag": "count = 15"},
        {("user", "friend", "user"): "user_user", ("item", "has", "tag"): "item_tag"},
        f'[interactions]\nfile = "user_item.txt"\ninteractions = {len(edges["user_item"])}\n'
        'paths = ["user-item-user", "item-user-item", "user-user", "item-tag-item"]\n'
        'split = { strategy = "ratio", seed = 5, valid = 0.1, test = 0.1 }\n',
    )


def _write_nodes(folder: Path, draw: np.random.Generator) -> None:
    """180 papers of three classes with sparse features, 90 authors without, 9 subjects with dense
    ones.
    """
    folder.mkdir(parents=True)
    labels = np.arange(180) % 3
    authors = (
        3 * draw.integers(0, 30, (180, 3)) + labels[:, None] + (draw.random((180, 3)) < 0.2)
    ) % 90
    subjects = (3 * draw.integers(0, 3, 180) + labels) % 9
    _write_edges(
        folder,
        {
            "paper_author": sorted(
                {(paper, int(author)) for paper in range(180) for author in authors[paper]}
            ),
            "paper_subject": [(paper, int(subject)) for paper, subject in enumerate(subjects)],
        },
    )
    words = (draw.random((180, 40)) < 0.15) + 0.0
    words[np.arange(180), draw.integers(0, 12, 180) + 12 * labels] = 1.0
    sp.save_npz(folder / "words.npz", sp.csr_matrix(words))
    np.save(folder / "subjects.npy", draw.random((9, 6)))
    np.save(folder / "labels.npy", labels)
    for name, part in zip(
        ("train", "valid", "test"), np.split(draw.permutation(180), 3), strict=True
    ):
        np.save(folder / f"{name}.npy", part)
    _write_card(
        folder,
        {
            "paper": 'count = 180\nfeatures = "words.npz"',
            "author": "count = 90",
            "subject": 'count = 9\nfeatures = "subjects.npy"',
        },
        {("paper", "by", "author"): "paper_author", ("paper", "on", "subject"): "paper_subject"},
        '[labels]\ntarget = "paper"\nfile = "labels.npy"\nclasses = 3\n'
        'paths = ["paper-author-paper", "paper-subject-paper"]\n'
        'splits = { 20 = ["train.npy", "valid.npy", "test.npy"] }\n',
    )


def _write_edges(folder: Path, edges: dict[str, list[tuple[int, int]]]) -> None:
    for name, pairs in edges.items():
        (folder / f"{name}.txt").write_text(
            "".join(f"{a}\t{b}\n" for a, b in pairs), encoding="utf-8"
        )


def _write_card(
    folder: Path, nodes: dict[str, str], edges: dict[tuple[str, str, str], str], task: str
) -> None:
    """Write the card of a folder of files beside it."""
    texts = ("title", "description", "licence", "citation", "acknowledgement")
    kind = "nodes" if task.startswith("[labels]") else "recommendation"
    text = f'task = "{kind}"\nname = "{folder.name}"\n' + "".join(
        f'{key} = "made by same_numbers.py"\n' for key in texts
    )
    text += "".join(f"[nodes.{name}]\n{values}\n" for name, values in nodes.items())
    for ends, name in edges.items():
        count = len((folder / f"{name}.txt").read_text(encoding="utf-8").splitlines())
        text += f'[[edges]]\ntype = {list(ends)}\nfile = "{name}.txt"\ncount = {count}\n'.replace(
            "'", '"'
        )
    files = sorted(folder.iterdir())
    hashes = "".join(
        f'"{path.name}" = "{hashlib.sha256(path.read_bytes()).hexdigest()}"\n' for path in files
    )
    text += f'{task}[files]\n{hashes}[[sources]]\nkind = "local"\nfolder = "{folder.name}"\n'
    folder.with_suffix(".toml").write_text(text, encoding="utf-8")
