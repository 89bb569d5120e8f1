"""Registration where part of an image has no counterpart: what moved and what changed, told
apart.
"""

from inrreg.metamorphosis.aligned import Aligned, Detector, align
from inrreg.metamorphosis.detectors import DetectedMask, ForwardBackward, JacobianAnomaly, LiWyatt
from inrreg.metamorphosis.evidence import InconsistencyEvidence, IntensityEvidence
from inrreg.metamorphosis.fit import (
    Metamorphosis,
    Resolution,
    ShootingResult,
    lddmm,
    metamorphosis,
    weighted_metamorphosis,
)
from inrreg.metamorphosis.mask_rules import GivenMask, LearnedMask
from inrreg.metamorphosis.non_correspondence import NonCorrespondence
from inrreg.metamorphosis.posterior import Appearance, Posterior, ScalarModel
from inrreg.metamorphosis.shooting import Hamiltonian, Shooting, State, recomputed, stored
from inrreg.metamorphosis.velocity_kernels import Gaussian, Kernel, MultiScale
from inrreg.metamorphosis.weights import (
    EvolvingMaskWeight,
    MaskWeight,
    UniformWeight,
    Weight,
    ZeroWeight,
    growing,
)

__all__ = [
    "Aligned",
    "Appearance",
    "DetectedMask",
    "Detector",
    "EvolvingMaskWeight",
    "ForwardBackward",
    "Gaussian",
    "GivenMask",
    "Hamiltonian",
    "InconsistencyEvidence",
    "IntensityEvidence",
    "JacobianAnomaly",
    "Kernel",
    "LearnedMask",
    "LiWyatt",
    "MaskWeight",
    "Metamorphosis",
    "MultiScale",
    "NonCorrespondence",
    "Posterior",
    "Resolution",
    "ScalarModel",
    "Shooting",
    "ShootingResult",
    "State",
    "UniformWeight",
    "Weight",
    "ZeroWeight",
    "align",
    "growing",
    "lddmm",
    "metamorphosis",
    "recomputed",
    "stored",
    "weighted_metamorphosis",
]
