"""The methods that are compared: one row each, and what the rows are made of."""

from experiments.methods.method import COMMON as COMMON
from experiments.methods.method import Hyperparameters as Hyperparameters
from experiments.methods.method import Method as Method
from experiments.methods.method import gradient as gradient
from experiments.methods.table import DEFAULT as DEFAULT
from experiments.methods.table import METHODS as METHODS
from experiments.methods.table import explanations as explanations
from experiments.methods.table import from_known_to_ours as from_known_to_ours
from experiments.methods.table import label as label
from experiments.methods.table import without_share as without_share
