"""What nine libraries call their metrics and options, and what they are called here."""

from __future__ import annotations

from typing import Any

from recgraph.evaluate.protocol import Convention

CONVENTION_OF: dict[str, Convention] = {
    "recbole": "recbole",
    "rectools": "rectools",
    "replay-rec": "replay",
    "lenskit": "lenskit",
    "torch-geometric": "pyg",
    "torchmetrics": "torchmetrics",
    "ranx": "ranx",
    "cornac": "cornac",
    "recpack": "recpack",
}

#: the peer's name of a metric -> ours, where it is the same metric in every library that has it
SAME = {
    "precision": "Precision precision LinkPredPrecision RetrievalPrecision PrecisionK",
    "recall": "Recall recall LinkPredRecall RetrievalRecall RecallK CalibratedRecallK",
    "hit_rate": "HitRate Hit HitRatio hit_rate hits LinkPredHitRatio RetrievalHitRate HitK",
    "f1": "F1Beta LinkPredF1 f1 FMeasure",
    "map": "MAP AveragePrecision map LinkPredMAP RetrievalMAP",
    "mrr": "MRR RecipRank mrr LinkPredMRR RetrievalMRR ReciprocalRankK",
    "ndcg": "NDCG ndcg ndcg_burges LinkPredNDCG RetrievalNormalizedDCG NDCGK",
    "dcg": "DCG dcg dcg_burges DCGK",
    "ncrr": "NCRR",
    "rbp": "RBP rbp.85",
    "r_precision": "r-precision RetrievalRPrecision",
    "auc": "AUC GAUC RocAuc RetrievalAUROC",
    "partial_auc": "PartialAUC PAP",
    "catalogue_coverage": "CatalogCoverage Coverage LinkPredCoverage ItemCoverage CoverageK",
    "gini": "GiniIndex ListGini ExposureGini",
    "entropy": "ShannonEntropy",
    "personalization": "LinkPredPersonalization",
    "average_popularity": "AvgRecPopularity AveragePopularity LinkPredAveragePopularity MeanPopRank",
    "tail_share": "TailPercentage",
    "novelty": "MeanInvUserFreq Surprisal",
    "new_items": "Novelty",
    "unexpectedness": "Unexpectedness",
    "serendipity": "Serendipity",
    "intra_list_diversity": (
        "IntraListDiversity CategoricalDiversity LinkPredDiversity IntraListDiversityK entropy rank_biased_entropy"
    ),
    "stratified_recall": "IPSHitRateK",
}
OURS = {peer: own for own, peers in SAME.items() for peer in peers.split()}

#: what a peer's parameters are called here; a metric's own name may imply some
OPTIONS: dict[str, dict[str, Any]] = {
    "r_precision=True": {"divide_by": "relevant"},
    "adaptive_k=True": {"divide_by": "catalogue"},
    "divide_by_k=True": {"divide_by": "k"},
    "divide_by_achievable=True": {"ideal": "achievable"},
    "beta=2.0": {"beta": 2.0},
    "insufficient_handling=exclude": {"short": "exclude"},
    "weight=LogRankWeight(offset=1)": {"discount": "rank"},
    "normalize=True": {"normalize": True},
    "CalibratedRecallK": {"bounded": True},
    "LinkPredRecall weighted=True": {"weighted": True},
    "hits": {"count": True},
    "ndcg_burges": {"gain": "exponential"},
    "dcg_burges": {"gain": "exponential"},
    "PAP": {"positives": "first"},
    "ExposureGini": {"patience": 0.85},
    "rank_biased_entropy": {"patience": 0.85},
    "cornac Precision k=None": {"divide_by": "listed"},
}

#: metrics without a counterpart, and why
LEFT_OUT = {
    "Accuracy": "counts true negatives: a classification over the catalogue, not a ranking",
    "MCC": "counts true negatives: a classification over the catalogue, not a ranking",
    "RetrievalFallOut": "the rate of irrelevant items, (k - hits) / (N - relevant): precision by another scale",
    "PercentileRanking": "pools pairs of users and items and guesses the rank of what is not listed",
}
