"""The preset that fits a coordinate network."""

from dataclasses import replace

from inrreg.objective.features import RobustWindow
from inrreg.optimisation import Adam
from inrreg.presets.base import Preset
from inrreg.presets.parts import linear_registration, sliding_registration
from inrreg.stages.gradient_registration import Scale
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.stages.keep_if_improved import KeepIfImproved
from inrreg.stages.mask_alignment import MaskAlignment
from inrreg.transforms import NeuralModel


def neural() -> Preset:
    """The default with a SIREN in place of the free-form deformation, rendered on a lattice:
    smoother and slower, about as exact.
    """
    siren = replace(
        sliding_registration(),
        transform=NeuralModel(
            "siren",
            {"width": 128, "depth": 3, "omega": 20.0, "omega_hidden": 30.0},
            scale_mm=10.0,
            lattice_mm=16.0,
        ),
        optimiser=Adam(1e-3),
        scales=(Scale(8, 80), Scale(4, 80, 8.0), Scale(2, 80)),
    )
    return Preset(
        "neural",
        "any pair, by a coordinate network",
        RobustWindow(),
        (
            InitialTranslation(),
            MaskAlignment(),
            KeepIfImproved(linear_registration("rigid")),
            siren,
        ),
    )
