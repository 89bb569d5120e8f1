"""Pairs with known truth: a breathing chest that slides along its wall, brains with lesions that
have no counterpart, and small toy shapes.
"""

from inrreg.phantoms.brain import Brain, synthetic_brain, t2_like
from inrreg.phantoms.lesion_pairs import Healthy
from inrreg.phantoms.lung import lung_pair
from inrreg.phantoms.pathology import PathologyPair, pathology_pair
from inrreg.phantoms.phantom_pair import PhantomPair, save_pair
from inrreg.phantoms.resection import Fluid, Isointense, Resection
from inrreg.phantoms.shapes import blob_pair, cut_c_pair
from inrreg.phantoms.tumour import Tumour

__all__ = [
    "Brain",
    "Fluid",
    "Healthy",
    "Isointense",
    "PathologyPair",
    "PhantomPair",
    "Resection",
    "Tumour",
    "blob_pair",
    "cut_c_pair",
    "lung_pair",
    "pathology_pair",
    "save_pair",
    "synthetic_brain",
    "t2_like",
]
