"""C, second part: which deformations are plausible.

One penalty a file; every penalty is a ``Term`` that reads the geometry of a step.
"""

from inrreg.penalties.bending import Bending
from inrreg.penalties.diffusion import Diffusion
from inrreg.penalties.inverse_consistency import GradICON, InverseConsistency
from inrreg.penalties.jacobian_determinant import Folding, LogJacobian
from inrreg.penalties.total_variation import TotalVariation

__all__ = [
    "Bending",
    "Diffusion",
    "Folding",
    "GradICON",
    "InverseConsistency",
    "LogJacobian",
    "TotalVariation",
]
