"""The methods that are compared: one row each, and what the rows are made of."""

from experiments.methods.table import COMMON as COMMON
from experiments.methods.table import DEFAULT as DEFAULT
from experiments.methods.table import METHODS as METHODS
from experiments.methods.table import Hyperparameters as Hyperparameters
from experiments.methods.table import Method as Method
from experiments.methods.table import gradient as gradient
from experiments.methods.table import label as label
