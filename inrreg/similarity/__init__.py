"""C, first part: how alike the fixed and the warped image are.

One measure a file; every measure is a ``Term``, lower is better.
"""

from inrreg.similarity.gated import GatedDistance
from inrreg.similarity.landmark_distance import LandmarkDistance
from inrreg.similarity.lncc import LNCC
from inrreg.similarity.mind import Mind, MindSSC
from inrreg.similarity.mse import MSE
from inrreg.similarity.ncc import NCC
from inrreg.similarity.nmi import NMI

__all__ = ["LNCC", "MSE", "NCC", "NMI", "GatedDistance", "LandmarkDistance", "Mind", "MindSSC"]
