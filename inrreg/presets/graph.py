"""The preset that ends after the discrete search."""

from graphreg.graph_registration import GraphRegistration
from inrreg.objective.features import RobustWindow
from inrreg.presets.base import Preset
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.stages.mask_alignment import MaskAlignment


def graph() -> Preset:
    """Discrete search alone, quick and rough: a start for stages of one's own, and
    correspondences.
    """
    return Preset(
        "graph",
        "any pair, by keypoints alone",
        RobustWindow(),
        (InitialTranslation(), MaskAlignment(), GraphRegistration()),
    )
