"""The preset for lung CT."""

from graphreg.graph_registration import GraphRegistration, shrinking_searches
from inrreg.objective.features import Window
from inrreg.objective.samplers import WholeGrid
from inrreg.ops.masks import lung_mask
from inrreg.optimisation import Adam
from inrreg.penalties import Bending, Folding
from inrreg.presets.base import Preset
from inrreg.similarity import LNCC
from inrreg.stages.both_directions import BothDirections
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.stages.mask_alignment import MaskAlignment
from inrreg.stages.refinement import Refinement
from inrreg.transforms import FreeForm


def lung() -> Preset:
    """CT of one or both lungs: their masks aligned as shapes, large motion found by discrete
    search, then refined both ways down to vessels. Masks are found where none are given.
    """
    continuous = Registration(
        FreeForm(8.0),
        similarities=(LNCC(9.0, flatness=0.15),),
        penalties=(Bending(6.0), Folding(1.0)),
        optimiser=Adam(0.5),
        scales=(Scale(4, 20, 8.0), Scale(1.4, 25, 5.0)),
        penalty_sampler=WholeGrid(5.0),
        mask_margin_mm=4.0,
    )
    # what moves farthest moves up and down, with the diaphragm
    search = GraphRegistration(shrinking_searches((24.0, 24.0, 40.0)))
    stages = (
        InitialTranslation(),
        MaskAlignment(),
        search,
        BothDirections(Refinement(continuous), lattice_mm=5.0),
    )
    return Preset(
        "lung", "lung CT, breathing or follow-up", Window(-1000, 200), stages, find_mask=lung_mask
    )
