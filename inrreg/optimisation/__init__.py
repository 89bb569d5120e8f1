"""O: optimisers, when they stop, and how they ended."""

from inrreg.optimisation.optimisers import LBFGS, Adam, GradientDescent, Optimiser
from inrreg.optimisation.outcome import Outcome, overall
from inrreg.optimisation.stopping import NeverStopping, SlopeStopping

__all__ = [
    "LBFGS",
    "Adam",
    "GradientDescent",
    "NeverStopping",
    "Optimiser",
    "Outcome",
    "SlopeStopping",
    "overall",
]
