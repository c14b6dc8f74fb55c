"""The public names: ``__init__.py`` reads this file."""

from recgraph import augment as augment
from recgraph import contrast as contrast
from recgraph import encoders as encoders
from recgraph import evaluate as evaluate
from recgraph import explain as explain
from recgraph import leaderboard as leaderboard
from recgraph import losses as losses
from recgraph import models as models
from recgraph.contrast.term import Contrast as Contrast
from recgraph.data.catalog import load_dataset as load_dataset
from recgraph.data.catalog import load_split as load_split
from recgraph.data.split import Interactions as Interactions
from recgraph.data.split import Split as Split
from recgraph.data.split import folds as folds
from recgraph.data.split import load_data as load_data
from recgraph.registry import import_file as import_file
from recgraph.registry import register as register
from recgraph.serve.bundle import Embedder as Embedder
from recgraph.serve.recommender import Recommender as Recommender
from recgraph.serve.recommender import load as load
from recgraph.serve.rules import Rules as Rules
from recgraph.train.fit import fit as fit
from recgraph.train.fit import fit_graph as fit_graph
from recgraph.train.run import Run as Run
from recgraph.tuning.study import tune as tune

__version__: str
