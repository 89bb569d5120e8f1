"""Registration where part of an image has no counterpart: what moved and what changed, told
apart.
"""

from inrreg.metamorphosis.aligned import Aligned, Detector, align
from inrreg.metamorphosis.detectors import Detected, ForwardBackward, JacobianAnomaly, LiWyatt
from inrreg.metamorphosis.evidence import InconsistencyEvidence, IntensityEvidence
from inrreg.metamorphosis.fit import (
    Metamorphosis,
    Resolution,
    ShootingResult,
    lddmm,
    metamorphosis,
    weighted_metamorphosis,
)
from inrreg.metamorphosis.non_correspondence import Given, Learned, NonCorrespondence
from inrreg.metamorphosis.posterior import Appearance, Posterior, ScalarModel
from inrreg.metamorphosis.shooting import Hamiltonian, Shooting, State, recomputed, stored
from inrreg.metamorphosis.velocity_kernels import Gaussian, Kernel, MultiScale
from inrreg.metamorphosis.weights import Everywhere, Evolving, Nowhere, Weight, Within, growing

__all__ = [
    "Aligned",
    "Appearance",
    "Detected",
    "Detector",
    "Everywhere",
    "Evolving",
    "ForwardBackward",
    "Gaussian",
    "Given",
    "Hamiltonian",
    "InconsistencyEvidence",
    "IntensityEvidence",
    "JacobianAnomaly",
    "Kernel",
    "Learned",
    "LiWyatt",
    "Metamorphosis",
    "MultiScale",
    "NonCorrespondence",
    "Nowhere",
    "Posterior",
    "Resolution",
    "ScalarModel",
    "Shooting",
    "ShootingResult",
    "State",
    "Weight",
    "Within",
    "align",
    "growing",
    "lddmm",
    "metamorphosis",
    "recomputed",
    "stored",
    "weighted_metamorphosis",
]
