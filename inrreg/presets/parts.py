"""Registrations that several presets share."""

from typing import Literal

from inrreg.objective.samplers import WholeGrid
from inrreg.optimisation import Adam
from inrreg.penalties import Bending, Folding, TotalVariation
from inrreg.similarity import LNCC, NMI
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.transforms import FreeForm, LinearModel


def sliding_registration() -> Registration:
    """Total variation lets organs slide, a little bending keeps the rest smooth."""
    return Registration(
        FreeForm(32.0),
        similarities=(LNCC(9.0),),
        penalties=(TotalVariation(0.1), Bending(3.0), Folding(1.0)),
        optimiser=Adam(1.0),
        scales=(Scale(8, 80), Scale(4, 80, 16.0), Scale(2, 80, 8.0)),
        penalty_sampler=WholeGrid(4.0),
        mask_margin_mm=4.0,
    )


def linear_registration(kind: Literal["rigid", "affine"]) -> Registration:
    """By mutual information, for contrasts may differ in kind."""
    return Registration(
        LinearModel(kind),
        similarities=(NMI(),),
        optimiser=Adam(0.5),
        scales=(Scale(8, 60), Scale(4, 40)),
        sampler=WholeGrid(6.0),
        mask_margin_mm=8.0,
        name=kind,
    )
