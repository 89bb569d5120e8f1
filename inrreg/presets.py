"""Named strategies: what is done to the intensities, and the stages that follow, each choice with its evidence.

``docs/presets.md`` holds the measurements. A preset is chosen by anatomy; ``default`` needs no choice.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal

from graphreg.registration import GraphRegistration, shrinking_searches
from inrreg.alignment import MaskAlignment
from inrreg.bidirectional import Bidirectional
from inrreg.errors import InputError
from inrreg.features import Feature, RobustWindow, Window
from inrreg.guarded import Guarded
from inrreg.image import Image
from inrreg.masks import lung_mask
from inrreg.metamorphosis import NonCorrespondence
from inrreg.optimisation import Adam, NeverStopping
from inrreg.penalties import Bending, Folding, LogJacobian, TotalVariation
from inrreg.refinement import Refinement
from inrreg.registration import Registration, Scale
from inrreg.similarity import LNCC, NCC, NMI
from inrreg.sites import RandomPoints, WholeGrid
from inrreg.stage import Stage
from inrreg.start import Start
from inrreg.transforms import FreeForm, LinearModel, NeuralModel


@dataclass(frozen=True)
class Preset:
    """``intensity`` is applied to both images once; ``stages`` run one after the other, each from what the last one found; more folding than the limit is an outcome.

    ``find_mask`` finds the mask of an image, before ``intensity``, where none is given.
    """

    name: str
    description: str
    intensity: Feature = field(default_factory=RobustWindow)
    stages: tuple[Stage, ...] = ()
    find_mask: Callable[[Image], Image] | None = None
    folding_limit_percent: float = 0.5


def lung() -> Preset:
    """CT of one or both lungs: their masks aligned as shapes, large motion found by discrete search, then refined both ways down to vessels. Masks are found where none are given."""
    continuous = Registration(
        FreeForm(8.0),
        similarities=(LNCC(9.0, flatness=0.15),),
        penalties=(Bending(6.0), Folding(1.0)),
        optimiser=Adam(0.5),
        scales=(Scale(4, 20, 8.0), Scale(1.4, 25, 5.0)),
        penalty_sampler=WholeGrid(5.0),
        mask_margin_mm=4.0,
    )
    search = GraphRegistration(shrinking_searches((24.0, 24.0, 40.0)))  # what moves farthest moves up and down, with the diaphragm
    stages = (Start(), MaskAlignment(), search, Bidirectional(Refinement(continuous), lattice_mm=5.0))
    return Preset("lung", "lung CT, breathing or follow-up", Window(-1000, 200), stages, find_mask=lung_mask)


def liver() -> Preset:
    """Breathing liver or upper abdomen in one scanner frame: no rigid stage, for the body stays; large motion, found by discrete search, that slides along its wall."""
    continuous = replace(_sliding(), similarities=(LNCC(9.0, flatness=0.05),), scales=(Scale(4, 20, 8.0), Scale(2, 20, 8.0)))
    stages = (Start(), MaskAlignment(), GraphRegistration(shrinking_searches(24.0, (1500, 1500))), Bidirectional(Refinement(continuous)))
    return Preset("liver", "abdominal MR or CT with breathing and sliding", RobustWindow(), stages)


def graph() -> Preset:
    """Discrete search alone, quick and rough: a start for stages of one's own, and correspondences."""
    return Preset("graph", "any pair, by keypoints alone", RobustWindow(), (Start(), MaskAlignment(), GraphRegistration()))


def brain() -> Preset:
    """Brains of different people (or times), skull-stripped or not: affine first, then fine detail."""
    continuous = Registration(
        FreeForm(16.0),
        similarities=(LNCC(9.0),),
        penalties=(Bending(0.3), Folding(1.0)),
        optimiser=Adam(0.5),
        scales=(Scale(6, 40), Scale(3, 40, 8.0), Scale(1.5, 40, 4.0), Scale(1, 30, 2.0)),
        penalty_sampler=WholeGrid(2.0),
    )
    return Preset("brain", "brain MR between subjects or times", RobustWindow(), (Start(), _linear("affine"), continuous))


def pathology() -> Preset:
    """Before and after: resection, tumour, new tissue. Affine first, then motion there and back beside a mask of what has no counterpart, which motion leaves out."""
    continuous = Registration(
        FreeForm(16.0),
        similarities=(LNCC(9.0),),
        penalties=(Bending(3.0), Folding(1.0)),
        optimiser=Adam(0.5),
        scales=(Scale(8, 40), Scale(4, 40, 8.0), Scale(2, 30), Scale(2, 20)),
        penalty_sampler=WholeGrid(4.0),
    )
    stages = (Start(), _linear("affine"), NonCorrespondence(continuous, survey=continuous.scales[:3]))
    return Preset("pathology", "one patient before and after: resection, tumour, new tissue", RobustWindow(), stages)


def default() -> Preset:
    """Anything else: masks aligned as shapes where given, a rigid stage where it clearly helps, then motion that may slide."""
    return Preset("default", "any pair", RobustWindow(), (Start(), MaskAlignment(), Guarded(_linear("rigid")), _sliding()))


def neural() -> Preset:
    """The default with a SIREN in place of the free-form deformation, rendered on a lattice: smoother and slower, about as exact."""
    siren = replace(
        _sliding(),
        transform=NeuralModel("siren", {"width": 128, "depth": 3, "omega": 20.0, "omega_hidden": 30.0}, scale_mm=10.0, lattice_mm=16.0),
        optimiser=Adam(1e-3),
        scales=(Scale(8, 80), Scale(4, 80, 8.0), Scale(2, 80)),
    )
    return Preset("neural", "any pair, by a coordinate network", RobustWindow(), (Start(), MaskAlignment(), Guarded(_linear("rigid")), siren))


def idir() -> Preset:
    """IDIR (Wolterink et al., MIDL 2022) in our parts, to compare with: a SIREN of 3 x 256, NCC and log Jacobian (there |det J - 1|) at 10 000 random points of the mask, 2 500 steps, no pyramid."""
    siren = Registration(
        NeuralModel("siren", {"width": 256, "depth": 3, "omega": 32.0, "omega_hidden": 32.0}, scale_mm=100.0),
        similarities=(NCC(),),
        penalties=(LogJacobian(0.05),),
        optimiser=Adam(1e-5, final_fraction=1.0, betas=(0.9, 0.999), stopping=NeverStopping()),
        scales=(Scale(1, 2500),),
        sampler=RandomPoints(10_000),
        penalty_sampler=RandomPoints(10_000),
    )
    return Preset("idir", "a neural method after its publication, to compare with; slow, and in need of a mask", RobustWindow(), (Start(), siren))


def _sliding() -> Registration:
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


def _linear(kind: Literal["rigid", "affine"]) -> Registration:
    """By mutual information, for contrasts may differ in kind."""
    return Registration(LinearModel(kind), similarities=(NMI(),), optimiser=Adam(0.5), scales=(Scale(8, 60), Scale(4, 40)), sampler=WholeGrid(6.0), mask_margin_mm=8.0, name=kind)


PRESETS = {preset.__name__: preset for preset in (default, lung, liver, brain, pathology, neural, graph, idir)}


def preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        InputError: there is none.
    """
    if name not in PRESETS:
        raise InputError(f"no preset is called {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]()
