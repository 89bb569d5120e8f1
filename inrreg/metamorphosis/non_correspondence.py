"""Registration with a mask of what has no counterpart: three fields, u (where to), m (nothing
there) and r (what changed), each fitted with the others held.

    (1 - m) D(u) + penalties of u;    -m L - entropy of m + perimeter of m;    m (e - r)^2

With m held, u is a registration that leaves m out (cost-function masking); with u held, m is
decided by the evidence in what is left unexplained; r is fitted last and tells nobody. The
ancestors are the joint energies of deformation and change (Noblet and others, Frontiers in
Neuroimaging 2022; Andresen and others, IJCARS 2022), here for the pair at hand.
"""

import logging
import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import Change, ImagePair
from inrreg.core.stopwatch import Stopwatch
from inrreg.core.threads import prefer_kernels, run_in_background
from inrreg.metamorphosis.aligned import Aligned, align, binarise_above_half
from inrreg.metamorphosis.evidence import (
    Evidence,
    InconsistencyEvidence,
    IntensityEvidence,
    residual,
)
from inrreg.metamorphosis.posterior import Appearance, Posterior, ScalarModel, probability
from inrreg.ops.sampling import on_grid
from inrreg.optimisation import Outcome, overall
from inrreg.optimisation.stage_result import Progress, Record, StageResult
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.stages.protocol import STOPPING_OUTCOMES
from inrreg.transforms import Linear, NumericInverse, Transform
from inrreg.transforms.bspline import interpolating_spline
from inrreg.transforms.composite import composed, frozen_start

log = logging.getLogger(__name__)

SUSPICIOUS_PERCENT = 20.0
INVERSE_MM = 6.0
"""Knots of the inverse of a start that is not linear."""


class MaskRule(Protocol):
    """Where m comes from."""

    def known(self, pair: ImagePair, mask: Image | None) -> ImagePair:
        """``pair`` with the lesions that the registration is to leave out, given the ``mask`` found
        so far.
        """
        ...

    def find(
        self, seen: Aligned, counterpart: Float[Tensor, "1 *shape"], generator: torch.Generator
    ) -> Float[Tensor, "1 *shape"]:
        """m on the grid of ``seen``; ``counterpart`` is 1 - m as believed so far."""
        ...


@dataclass(frozen=True)
class LearnedMask:
    """m from evidence.

    Before anything is seen a voxel has no counterpart with a probability of ``prior``; where the
    pair has lesion masks, of ``prior_inside`` in them.
    """

    evidence: tuple[Evidence, ...] = (IntensityEvidence(), InconsistencyEvidence())
    model: ScalarModel = field(default_factory=ScalarModel)
    posterior: Posterior = field(default_factory=Posterior)
    prior: float = 0.15
    prior_inside: float = 0.9

    def known(self, pair: ImagePair, mask: Image | None) -> ImagePair:
        """See ``MaskRule``: before the first look what the lesion masks say, then what was
        found.
        """
        return (
            pair
            if mask is None
            else replace(pair, fixed_lesion=binarise_above_half(mask), moving_lesion=None)
        )

    def find(
        self, seen: Aligned, counterpart: Float[Tensor, "1 *shape"], generator: torch.Generator
    ) -> Float[Tensor, "1 *shape"]:
        """See ``MaskRule``."""
        probable = (
            torch.full_like(counterpart, self.prior)
            if seen.lesion is None
            else self.prior + (self.prior_inside - self.prior) * seen.lesion
        )
        with torch.no_grad():
            log_odds = torch.stack([term(seen, counterpart) for term in self.evidence]).sum(
                0
            ) + torch.logit(probable)
        logit = self.model.build(seen.fixed.grid, generator).to(seen.fixed.device)
        if self.posterior.fit(logit, log_odds, seen) is Outcome.INTERRUPTED:
            raise KeyboardInterrupt
        return probability(logit, seen.fixed.grid, seen.weight.data)


@dataclass(frozen=True)
class GivenMask:
    """m is the lesion masks of the pair, and nothing is learned: cost-function masking (Brett et
    al., NeuroImage 2001).
    """

    def known(self, pair: ImagePair, mask: Image | None) -> ImagePair:
        """See ``MaskRule``."""
        return pair

    def find(
        self, seen: Aligned, counterpart: Float[Tensor, "1 *shape"], generator: torch.Generator
    ) -> Float[Tensor, "1 *shape"]:
        """See ``MaskRule``."""
        return (
            torch.zeros_like(counterpart)
            if seen.lesion is None
            else seen.lesion * (seen.weight.data > 0)
        )


class Found(NamedTuple):
    """A mask of what has no counterpart, and the view in which it was found, on whose grid it
    lies.
    """

    seen: Aligned
    mask: Image


@dataclass(frozen=True)
class NonCorrespondence:
    """Runs ``registration`` there and back, and after each scale asks ``mask`` for m: first over
    the scales of ``survey``, then over its own, from the start again, for what was pulled into a
    hole before m was known comes back only slowly. A coarser view never replaces a finer one; a
    scale that stands twice is run again with what was found.

    It is a ``Stage``: ``run(pair, initial)``, for images scaled to 0 ... 1; the change it found is
    in ``result.change``.
    """

    registration: Registration
    survey: tuple[Scale, ...] = ()
    mask: MaskRule = field(default_factory=LearnedMask)
    appearance_model: ScalarModel = field(default_factory=ScalarModel)
    appearance: Appearance = field(default_factory=Appearance)
    appearance_window_mm: float = 40.0
    name: str = "non-correspondence"

    @prefer_kernels()
    def run(
        self,
        pair: ImagePair,
        initial: Transform | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> StageResult:
        """Fit the residual of ``initial``, m and r.

        Raises:
            InputError: a ready transform in place of a model, which would serve one way only, or a
                survey that looks closer than the fit.
        """
        self._check()
        watch = Stopwatch()
        start = frozen_start(initial, pair.fixed.device)
        there = Direction(self, pair, start, seed)
        back = Direction(
            self,
            pair.swapped(),
            None if start is None else _way_back(start, pair.moving.grid).requires_grad_(False),
            seed,
        )
        try:
            self._fit(there, back, seed, progress)
            interrupted = False
        except KeyboardInterrupt:
            interrupted = True
        outcome = Outcome.INTERRUPTED if interrupted else overall(there.outcomes)
        if outcome in STOPPING_OUTCOMES or overall(back.outcomes) in STOPPING_OUTCOMES:
            there.fall_back()
        log.info("%s: %s after %.1f s", self.name, outcome.label, watch.seconds)
        result = StageResult(
            self.name, there.total, outcome, watch.seconds, [*back.history, *there.history]
        )
        here, elsewhere = there.found, back.found
        if here is None or elsewhere is None:
            return result
        fixed, moving = pair.fixed.grid, pair.moving.grid
        change = Change(
            on_grid(here.mask, fixed),
            on_grid(self.repainted(here, there.generator), fixed),
            on_grid(elsewhere.mask, moving),
        )
        notes = {
            "no_counterpart_fixed": _amount("fixed", here),
            "no_counterpart_moving": _amount("moving", elsewhere),
            "outcome_back": overall(back.outcomes).name.lower(),
        }
        return replace(result, seconds=watch.seconds, notes=notes, change=change)

    def _check(self) -> None:
        if isinstance(self.registration.transform, Transform):
            raise InputError(
                f"the fit goes both ways, and a ready {type(self.registration.transform).__name__}"
                " serves one; give a model, for instance FreeForm(16), and the transform as"
                " `initial`"
            )
        finest = min((scale.spacing_mm for scale in self.registration.scales), default=math.inf)
        if any(scale.spacing_mm < finest for scale in self.survey):
            raise InputError(
                f"the survey looks closer than the fit, whose finest scale is {finest:g} mm, and a"
                " coarser view never replaces a finer one; leave those scales out of the survey"
            )

    def _fit(
        self, there: "Direction", back: "Direction", seed: int, progress: Progress | None
    ) -> None:
        """The survey, then the fit from the start again; an interrupt leaves as a
        KeyboardInterrupt, whatever it met.
        """
        for scale in self.survey:
            if self._round(scale, there, back, seed, progress):
                return
        for way in (there, back):
            if self.survey:
                way.begin_again()
        for scale in self.registration.scales:
            if self._round(scale, there, back, seed, progress):
                return

    def _round(
        self,
        scale: Scale,
        there: "Direction",
        back: "Direction",
        seed: int,
        progress: Progress | None,
    ) -> bool:
        """One scale: u both ways with m held, then m both ways with u held, both ways at once;
        whether the run has ended with it.
        """
        with run_in_background(
            partial(back.move, scale, seed), there.pair.fixed.device
        ) as moved_back:
            for move in (partial(there.move, scale, seed), moved_back):
                outcome = move(progress)
                if outcome is Outcome.INTERRUPTED:
                    raise KeyboardInterrupt
                if outcome in STOPPING_OUTCOMES:
                    return True
        with run_in_background(
            lambda said: back.look(there.total, scale.spacing_mm), there.pair.fixed.device
        ) as looked_back:
            there.look(back.total, scale.spacing_mm)
            looked_back(None)
        return False

    def repainted(self, found: Found, generator: torch.Generator) -> Image:
        """m r: what is to be added to the warped image where it has no counterpart, one field a
        channel.
        """
        seen, mask = found.seen, found.mask.data
        changes = []
        for fixed, warped in zip(seen.fixed.data.split(1), seen.warped.data.split(1), strict=True):
            unexplained = residual(
                fixed,
                warped,
                seen.weight.data * (1 - mask),
                seen.fixed.grid,
                self.appearance_window_mm,
            )
            change = self.appearance_model.build(seen.fixed.grid, generator).to(mask.device)
            self.appearance.fit(change, unexplained, mask, seen.fixed.grid)
            with torch.no_grad():
                changes.append(mask * change.on(seen.fixed.grid))
        return Image(torch.cat(changes), seen.fixed.grid, "appearance change")


class Direction:
    """One direction of the fit: the pair as it sees it, its map, its mask."""

    def __init__(
        self, stage: NonCorrespondence, pair: ImagePair, initial: Transform | None, seed: int
    ) -> None:
        self.stage, self.pair, self.initial, self.generator = (
            stage,
            pair,
            initial,
            torch.Generator().manual_seed(seed),
        )
        self.found: Found | None = None
        self.spacing_mm = self.moving_at_mm = math.inf
        self.surveyed: Transform | None = None
        self.outcomes, self.history = list[Outcome](), list[Record]()
        self.transform = self._built()

    @property
    def total(self) -> Transform:
        """The whole map."""
        return composed(self.transform, self.initial)

    def begin_again(self) -> None:
        """From the identity; what was reached before is kept aside."""
        self.surveyed, self.transform, self.outcomes, self.moving_at_mm = (
            self.transform,
            self._built(),
            [],
            math.inf,
        )

    def _built(self) -> Transform:
        model = self.stage.registration.transform
        assert not isinstance(model, Transform)  # or the stage had refused it
        return model.build(self.pair.fixed.grid, self.generator).to(self.pair.fixed.device)

    def fall_back(self) -> None:
        """To what the survey reached, where the fit ended before it saw as well."""
        if self.surveyed is not None and self.moving_at_mm > self.spacing_mm:
            self.transform = self.surveyed

    def move(self, scale: Scale, seed: int, progress: Progress | None) -> Outcome:
        """u with m held."""
        self.moving_at_mm = scale.spacing_mm
        known = self.stage.mask.known(self.pair, None if self.found is None else self.found.mask)
        registration = replace(self.stage.registration, scales=(scale,), name=self.stage.name)
        generator = torch.Generator().manual_seed(seed)
        outcome, history = registration.fit(
            self.transform, known, self.initial, generator, progress
        )
        self.history += history
        self.outcomes.append(outcome)
        return outcome

    def look(self, back: Transform, spacing_mm: float) -> None:
        """m with u held, unless it has been seen better."""
        if spacing_mm > self.spacing_mm:
            return
        self.spacing_mm = spacing_mm
        seen = align(self.pair, self.total, back, spacing_mm)
        counterpart = (
            torch.ones_like(seen.weight.data)
            if self.found is None
            else 1 - on_grid(self.found.mask, seen.fixed.grid).data
        )
        mask = self.stage.mask.find(seen, counterpart, self.generator)
        self.found = Found(seen, Image(mask, seen.fixed.grid, "non-correspondence"))


@torch.no_grad()
def _way_back(start: Transform, grid: Grid) -> Transform:
    """The inverse of the start: of a linear one exactly, of any other drawn once on a lattice over
    ``grid`` of the moving image, for it is asked at every step.
    """
    if isinstance(start, Linear):
        return start.inverse()
    lattice = grid.covering(INVERSE_MM, margin=1)
    knots = lattice.points(device=start.device)
    return interpolating_spline(NumericInverse(start).solve(knots)[0] - knots, lattice)


def _amount(name: str, found: Found) -> dict[str, float]:
    """How much has no counterpart: ml, and percent of what is seen."""
    volume = float(found.mask.data.sum())
    percent = 100 * volume / max(float((found.seen.weight.data > 0).sum()), 1.0)
    if percent > SUSPICIOUS_PERCENT:
        log.warning(
            "%.0f %% of the %s image was found to have no counterpart, which is more than a lesion:"
            " look at the alignment and at the contrasts of both images",
            percent,
            name,
        )
    size = volume * float(np.prod(found.mask.grid.spacing))
    return {
        **({"volume_ml": size / 1000} if found.mask.grid.ndim == 3 else {"area_mm2": size}),
        "percent_of_foreground": percent,
    }
