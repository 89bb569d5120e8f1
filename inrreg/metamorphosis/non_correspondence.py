"""Registration with a mask of what has no counterpart.

Three fields are fitted, each with the others held: u (displacement), m (no counterpart) and r
(intensity change).

    (1 - m) D(u) + penalties of u;    -m L - entropy of m + perimeter of m;    m (e - r)^2

With m held, u is a registration that leaves m out (cost-function masking). With u held, m follows
from the evidence in the residual e. r is fitted last and influences neither u nor m. Related are
the joint energies of deformation and change of Noblet et al. (Frontiers in Neuroimaging 2022) and
Andresen et al. (IJCARS 2022), here for a single pair.
"""

import copy
import logging
import math
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import Change, ImagePair
from inrreg.core.stopwatch import Stopwatch
from inrreg.core.threads import prefer_kernels, run_in_background
from inrreg.metamorphosis.aligned import Aligned, align
from inrreg.metamorphosis.evidence import residual
from inrreg.metamorphosis.mask_rules import LearnedMask, MaskRule
from inrreg.metamorphosis.posterior import Appearance, ScalarModel
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
"""A larger share of the foreground without counterpart is reported as a warning."""
INVERSE_MM = 6.0
"""Knot spacing of the inverse of an initial transform that is not linear."""


class Found(NamedTuple):
    """A mask of what has no counterpart, on the grid of the view in which it was found."""

    view: Aligned
    mask: Image


@dataclass(frozen=True)
class State:
    """What one direction of the fit has reached.

    ``transform`` is the residual of the initial transform, fitted on images of ``fitted_mm``.
    ``found`` was found in a view of ``view_mm``. ``surveyed`` is the residual at the end of the
    survey.
    """

    transform: Transform
    surveyed: Transform | None = None
    fitted_mm: float = math.inf
    found: Found | None = None
    view_mm: float = math.inf
    outcomes: tuple[Outcome, ...] = ()
    history: tuple[Record, ...] = ()

    @property
    def stopped(self) -> bool:
        """Whether the last fit ended the run."""
        return self.outcomes[-1:] != () and self.outcomes[-1] in STOPPING_OUTCOMES

    def interrupted(self) -> "State":
        """The same state where the next fit was interrupted before it gave anything."""
        return replace(self, outcomes=(*self.outcomes, Outcome.INTERRUPTED))

    def best(self) -> "State":
        """The state with the residual of the survey, where the fit ended before it had reached a
        spacing as fine as that of the view.
        """
        if self.surveyed is None or self.fitted_mm <= self.view_mm:
            return self
        return replace(self, transform=self.surveyed)


@dataclass(frozen=True)
class NonCorrespondence:
    """Runs ``registration`` forward and backward, and after each scale finds m by ``mask``.

    It first runs the scales of ``survey``. Then it runs its own scales, from the initial transform
    again, because tissue that was pulled into a lesion before m was known returns only slowly. A
    mask found in a finer view is never replaced by one from a coarser view. A scale given twice is
    run again with the mask that was found.

    It is a ``Stage``: ``run(pair, initial)``, for images scaled to 0 ... 1. The change that it
    found is in ``result.change``.
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
            InputError: ``registration.transform`` is a ready transform, which would serve one
                direction only, or a scale of the survey is finer than those of the fit.
        """
        self._check()
        watch = Stopwatch()
        start = frozen_start(initial, pair.fixed.device)
        directions = (
            Direction(self, pair, start, seed, torch.Generator().manual_seed(seed)),
            Direction(
                self,
                pair.swapped(),
                None if start is None else _inverse(start, pair.moving.grid),
                seed,
                torch.Generator().manual_seed(seed),
            ),
        )
        forward, backward, interrupted = self._fit(directions, progress)
        outcome = Outcome.INTERRUPTED if interrupted else overall(forward.outcomes)
        if outcome in STOPPING_OUTCOMES or overall(backward.outcomes) in STOPPING_OUTCOMES:
            forward = forward.best()
        log.info("%s: %s after %.1f s", self.name, outcome.label, watch.seconds)
        result = StageResult(
            self.name,
            directions[0].total(forward),
            outcome,
            watch.seconds,
            [*backward.history, *forward.history],
        )
        if forward.found is None or backward.found is None:
            return result
        return replace(
            result,
            change=self._change(pair, forward.found, backward.found, directions[0].generator),
            notes={
                "no_counterpart_fixed": _amount("fixed", forward.found),
                "no_counterpart_moving": _amount("moving", backward.found),
                "outcome_back": overall(backward.outcomes).name.lower(),
            },
            seconds=watch.seconds,
        )

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
        self, directions: tuple["Direction", "Direction"], progress: Progress | None
    ) -> tuple[State, State, bool]:
        """The states of both directions after the survey and the fit, and whether the run was
        interrupted; an interrupt leaves the last states that are whole.
        """
        first, second = directions
        forward, backward = first.begin(), second.begin()
        scales = [*self.survey, *self.registration.scales]
        try:
            for index, scale in enumerate(scales):
                if self.survey and index == len(self.survey):
                    forward, backward = first.begin_again(forward), second.begin_again(backward)
                forward, backward = _moved(directions, (forward, backward), scale, progress)
                if forward.stopped or backward.stopped:
                    break
                forward, backward = _viewed(directions, (forward, backward), scale.spacing_mm)
        except KeyboardInterrupt:
            return forward, backward, True
        last = {*forward.outcomes[-1:], *backward.outcomes[-1:]}
        return forward, backward, Outcome.INTERRUPTED in last

    def _change(
        self, pair: ImagePair, fixed: Found, moving: Found, generator: torch.Generator
    ) -> Change:
        """The masks and the change of intensity on the grids of the images."""
        return Change(
            on_grid(fixed.mask, pair.fixed.grid),
            on_grid(self.repainted(fixed, generator), pair.fixed.grid),
            on_grid(moving.mask, pair.moving.grid),
        )

    def repainted(self, found: Found, generator: torch.Generator) -> Image:
        """m r, which is to be added to the warped image where it has no counterpart; one field a
        channel.
        """
        view, mask = found.view, found.mask.data
        changes = []
        for fixed, warped in zip(view.fixed.data.split(1), view.warped.data.split(1), strict=True):
            unexplained = residual(
                fixed,
                warped,
                view.weight.data * (1 - mask),
                view.fixed.grid,
                self.appearance_window_mm,
            )
            change = self.appearance_model.build(view.fixed.grid, generator).to(mask.device)
            self.appearance.fit(change, unexplained, mask, view.fixed.grid)
            with torch.no_grad():
                changes.append(mask * change.on(view.fixed.grid))
        return Image(torch.cat(changes), view.fixed.grid, "appearance change")


@dataclass(frozen=True, eq=False)
class Direction:
    """One direction of the fit: the pair in this direction and what does not change during a run.

    Its random numbers come from ``generator``, one after the other.
    """

    stage: NonCorrespondence
    pair: ImagePair
    initial: Transform | None
    seed: int
    generator: torch.Generator

    def begin(self) -> State:
        """The identity."""
        model = self.stage.registration.transform
        assert not isinstance(model, Transform)  # the stage has refused it
        return State(model.build(self.pair.fixed.grid, self.generator).to(self.pair.fixed.device))

    def begin_again(self, state: State) -> State:
        """The identity with the mask of the survey."""
        return replace(
            state,
            transform=self.begin().transform,
            surveyed=state.transform,
            fitted_mm=math.inf,
            outcomes=(),
        )

    def total(self, state: State) -> Transform:
        """The whole map."""
        return composed(state.transform, self.initial)

    def move(self, state: State, scale: Scale, progress: Progress | None) -> State:
        """Fit u with m held."""
        transform = copy.deepcopy(state.transform)
        outcome, history = replace(
            self.stage.registration, scales=(scale,), name=self.stage.name
        ).fit(
            transform,
            self.stage.mask.known(self.pair, None if state.found is None else state.found.mask),
            self.initial,
            torch.Generator().manual_seed(self.seed),
            progress,
        )
        return replace(
            state,
            transform=transform,
            fitted_mm=scale.spacing_mm,
            outcomes=(*state.outcomes, outcome),
            history=(*state.history, *history),
        )

    def view(self, state: State, opposite: Transform, spacing_mm: float) -> State:
        """Find m with u held, unless it was found in a finer view; ``opposite`` is the whole map of
        the other direction.
        """
        if spacing_mm > state.view_mm:
            return state
        view = align(self.pair, self.total(state), opposite, spacing_mm)
        counterpart = (
            torch.ones_like(view.weight.data)
            if state.found is None
            else 1 - on_grid(state.found.mask, view.fixed.grid).data
        )
        mask = self.stage.mask.find(view, counterpart, self.generator)
        found = Found(view, Image(mask, view.fixed.grid, "non-correspondence"))
        return replace(state, found=found, view_mm=spacing_mm)


def _moved(
    directions: tuple[Direction, Direction],
    states: tuple[State, State],
    scale: Scale,
    progress: Progress | None,
) -> tuple[State, State]:
    """u of both directions with m held, at the same time; where the forward fit ends the run, the
    backward one is given up.
    """
    forward, backward = states
    with run_in_background(
        partial(directions[1].move, backward, scale), directions[0].pair.fixed.device
    ) as move_backward:
        forward = directions[0].move(forward, scale, progress)
        if forward.stopped:
            return forward, backward
        try:
            return forward, move_backward(progress)
        except KeyboardInterrupt:
            return forward, backward.interrupted()


def _viewed(
    directions: tuple[Direction, Direction], states: tuple[State, State], spacing_mm: float
) -> tuple[State, State]:
    """m of both directions with u held, at the same time."""
    first, second = directions
    forward_total, backward_total = first.total(states[0]), second.total(states[1])
    with run_in_background(
        lambda report: second.view(states[1], forward_total, spacing_mm), first.pair.fixed.device
    ) as view_backward:
        forward = first.view(states[0], backward_total, spacing_mm)
        return forward, view_backward(None)


@torch.no_grad()
def _inverse(start: Transform, grid: Grid) -> Transform:
    """The inverse of ``start``, not to be fitted: exact for a linear one; of any other the spline
    through it on a lattice over ``grid`` of the moving image, because every step evaluates it.
    """
    if isinstance(start, Linear):
        return start.inverse().requires_grad_(False)
    lattice = grid.covering(INVERSE_MM, margin=1)
    knots = lattice.points(device=start.device)
    return interpolating_spline(NumericInverse(start).solve(knots)[0] - knots, lattice)


def _amount(name: str, found: Found) -> dict[str, float]:
    """The volume without counterpart in ml (area in mm^2), and its percentage of the foreground."""
    volume = float(found.mask.data.sum())
    percent = 100 * volume / max(float((found.view.weight.data > 0).sum()), 1.0)
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
