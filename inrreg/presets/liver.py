"""The preset for the liver and the upper abdomen."""

from dataclasses import replace

from graphreg.graph_registration import GraphRegistration, shrinking_searches
from inrreg.objective.features import RobustWindow
from inrreg.presets.base import Preset
from inrreg.presets.parts import sliding_registration
from inrreg.similarity import LNCC
from inrreg.stages.both_directions import BothDirections
from inrreg.stages.gradient_registration import Scale
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.stages.mask_alignment import MaskAlignment
from inrreg.stages.refinement import Refinement


def liver() -> Preset:
    """Breathing liver or upper abdomen in one scanner frame: no rigid stage, for the body stays;
    large motion, found by discrete search, that slides along its wall.
    """
    continuous = replace(
        sliding_registration(),
        similarities=(LNCC(9.0, flatness=0.05),),
        scales=(Scale(4, 20, 8.0), Scale(2, 20, 8.0)),
    )
    stages = (
        InitialTranslation(),
        MaskAlignment(),
        GraphRegistration(shrinking_searches(24.0, (1500, 1500))),
        BothDirections(Refinement(continuous)),
    )
    return Preset("liver", "abdominal MR or CT with breathing and sliding", RobustWindow(), stages)
