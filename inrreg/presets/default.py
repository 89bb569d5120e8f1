"""The preset for any pair."""

from inrreg.objective.features import RobustWindow
from inrreg.presets.base import Preset
from inrreg.presets.parts import linear_registration, sliding_registration
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.stages.keep_if_improved import KeepIfImproved
from inrreg.stages.mask_alignment import MaskAlignment


def default() -> Preset:
    """Anything else: masks aligned as shapes where given, a rigid stage where it clearly helps,
    then motion that may slide.
    """
    return Preset(
        "default",
        "any pair",
        RobustWindow(),
        (
            InitialTranslation(),
            MaskAlignment(),
            KeepIfImproved(linear_registration("rigid")),
            sliding_registration(),
        ),
    )
