"""NePhi with an encoder: what a set of pairs has taught predicts where the fit of a new pair
begins.
"""

from inrreg.amortised.network import AmortisedNePhi, load_amortised, save_amortised
from inrreg.amortised.prediction import Predicted
from inrreg.amortised.training import Example, Training, cost, example, train, train_on

__all__ = [
    "AmortisedNePhi",
    "Example",
    "Predicted",
    "Training",
    "cost",
    "example",
    "load_amortised",
    "save_amortised",
    "train",
    "train_on",
]
