"""T: maps from fixed world points to moving world points, in RAS mm."""

from inrreg.transforms.base import Transform
from inrreg.transforms.bspline import BSpline, FreeForm
from inrreg.transforms.composite import Composite
from inrreg.transforms.dense_displacement import DenseDisplacement
from inrreg.transforms.inverse import NumericInverse
from inrreg.transforms.linear import Affine, Linear, LinearModel, Rigid, Translation, identity
from inrreg.transforms.neural import Neural, NeuralModel, Render
from inrreg.transforms.serialise import load_transform, save_transform

__all__ = [
    "Affine",
    "BSpline",
    "Composite",
    "DenseDisplacement",
    "FreeForm",
    "Linear",
    "LinearModel",
    "Neural",
    "NeuralModel",
    "NumericInverse",
    "Render",
    "Rigid",
    "Transform",
    "Translation",
    "identity",
    "load_transform",
    "save_transform",
]
