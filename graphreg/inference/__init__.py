"""From costs at single keypoints to a labelling on which neighbours agree; one algorithm a file,
every one a callable ``(costs, graph, labels) -> marginals``.
"""

from graphreg.inference.independent import Independent
from graphreg.inference.loopy import LoopyMinSum
from graphreg.inference.marginals import (
    Inference,
    entropy,
    probabilities,
    soft_argmin,
    sub_label_argmin,
)
from graphreg.inference.mean_field import MeanField
from graphreg.inference.pairwise import Quadratic, energy
from graphreg.inference.tree import TreeMinSum

__all__ = [
    "Independent",
    "Inference",
    "LoopyMinSum",
    "MeanField",
    "Quadratic",
    "TreeMinSum",
    "energy",
    "entropy",
    "probabilities",
    "soft_argmin",
    "sub_label_argmin",
]
