"""Registration where part of an image has no counterpart: what moved and what changed, told apart."""

from inrreg.metamorphosis.fit import Metamorphosis, Resolution, ShootingResult, lddmm, metamorphosis, weighted_metamorphosis
from inrreg.metamorphosis.kernels import Gaussian, Kernel, MultiScale
from inrreg.metamorphosis.shooting import Hamiltonian, Shooting, State, recomputed, stored
from inrreg.metamorphosis.weights import Everywhere, Evolving, Nowhere, Weight, Within, growing

__all__ = [
    "Everywhere",
    "Evolving",
    "Gaussian",
    "Hamiltonian",
    "Kernel",
    "Metamorphosis",
    "MultiScale",
    "Nowhere",
    "Resolution",
    "Shooting",
    "ShootingResult",
    "State",
    "Weight",
    "Within",
    "growing",
    "lddmm",
    "metamorphosis",
    "recomputed",
    "stored",
    "weighted_metamorphosis",
]
