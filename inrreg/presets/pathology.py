"""The preset for one patient before and after: resection, tumour, new tissue."""

from inrreg.metamorphosis import NonCorrespondence
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


def pathology() -> Preset:
    """Before and after: resection, tumour, new tissue.

    Affine first, then motion there and back beside a mask of what has no counterpart, which motion
    leaves out.
    """
    continuous = Registration(
        FreeForm(16.0),
        similarities=(LNCC(9.0),),
        penalties=(Bending(3.0), Folding(1.0)),
        optimiser=Adam(0.5),
        scales=(Scale(8, 40), Scale(4, 40, 8.0), Scale(2, 30), Scale(2, 20)),
        penalty_sampler=WholeGrid(4.0),
    )
    stages = (
        InitialTranslation(),
        linear_registration("affine"),
        NonCorrespondence(continuous, survey=continuous.scales[:3]),
    )
    return Preset(
        "pathology",
        "one patient before and after: resection, tumour, new tissue",
        RobustWindow(),
        stages,
    )
