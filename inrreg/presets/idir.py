"""The preset that repeats IDIR, to compare with."""

from inrreg.objective.features import RobustWindow
from inrreg.objective.samplers import RandomPoints
from inrreg.optimisation import Adam, NeverStopping
from inrreg.penalties import LogJacobian
from inrreg.presets.base import Preset
from inrreg.similarity import NCC
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.transforms import NeuralModel


def idir() -> Preset:
    """IDIR (Wolterink et al., MIDL 2022) in our parts, to compare with: a SIREN of 3 x 256, NCC and
    log Jacobian (there |det J - 1|) at 10 000 random points of the mask, 2 500 steps, no pyramid.
    """
    siren = Registration(
        NeuralModel(
            "siren", {"width": 256, "depth": 3, "omega": 32.0, "omega_hidden": 32.0}, scale_mm=100.0
        ),
        similarities=(NCC(),),
        penalties=(LogJacobian(0.05),),
        optimiser=Adam(1e-5, final_fraction=1.0, betas=(0.9, 0.999), stopping=NeverStopping()),
        scales=(Scale(1, 2500),),
        sampler=RandomPoints(10_000),
        penalty_sampler=RandomPoints(10_000),
    )
    return Preset(
        "idir",
        "a neural method after its publication, to compare with; slow, and in need of a mask",
        RobustWindow(),
        (InitialTranslation(), siren),
    )
