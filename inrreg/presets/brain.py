"""The preset for brain MR."""

from inrreg.objective.features import RobustWindow
from inrreg.objective.samplers import WholeGrid
from inrreg.optimisation import Adam
from inrreg.penalties import Bending, Folding
from inrreg.presets.base import Preset
from inrreg.presets.parts import linear_registration
from inrreg.similarity import LNCC
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.transforms import FreeForm


def brain() -> Preset:
    """Brains of different people (or times), skull-stripped or not: affine first, then fine
    detail.
    """
    continuous = Registration(
        FreeForm(16.0),
        similarities=(LNCC(9.0),),
        penalties=(Bending(0.3), Folding(1.0)),
        optimiser=Adam(0.5),
        scales=(Scale(6, 40), Scale(3, 40, 8.0), Scale(1.5, 40, 4.0), Scale(1, 30, 2.0)),
        penalty_sampler=WholeGrid(2.0),
    )
    return Preset(
        "brain",
        "brain MR between subjects or times",
        RobustWindow(),
        (InitialTranslation(), linear_registration("affine"), continuous),
    )
