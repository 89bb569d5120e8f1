"""Two fits of one pair, there and back, and the map half way between them."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image_pair import ImagePair
from inrreg.core.settings_checks import check_above_zero
from inrreg.core.stopwatch import Stopwatch
from inrreg.core.threads import prefer_kernels, run_in_background
from inrreg.ops.masks import as_weight
from inrreg.ops.sampling import linear
from inrreg.optimisation import Outcome, overall
from inrreg.optimisation.stage_result import Progress, Record, StageResult
from inrreg.stages.protocol import STOPPING_OUTCOMES
from inrreg.stages.refinement import Refinement, parted
from inrreg.transforms import BSpline, NumericInverse, Transform
from inrreg.transforms.bspline import interpolating_spline
from inrreg.transforms.composite import composed


@dataclass(frozen=True)
class BothDirections:
    """Runs ``stage`` from fixed to moving and from moving to fixed, and gives x -> (T(x) + S^-1(x))
    / 2, T what the first found and S what the second.

    Both are fitted at once where there are two threads. Either fit errs in its own way, so their
    mean errs less, and how far they lie apart says how far to trust it. The mean is a spline with
    knots ``lattice_mm`` apart; where S cannot be inverted it is T (after Christensen and Johnson,
    IEEE TMI 2001, who ask for agreement by a penalty).
    """

    stage: Refinement
    lattice_mm: float = 6.0

    def __post_init__(self) -> None:
        check_above_zero(self, "lattice_mm")

    @property
    def name(self) -> str:
        return self.stage.name

    @prefer_kernels()
    def run(
        self,
        pair: ImagePair,
        initial: Transform | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> StageResult:
        """The mean of both; an interrupt leaves what the way there found.

        Raises:
            InputError: ``initial`` does not begin with a ``BSpline``.
        """
        watch = Stopwatch()
        if initial is None or not isinstance(parted(initial)[0], BSpline):
            return self.stage.run(pair, initial, seed=seed, progress=progress)  # which refuses it
        inverse, heard = (
            inverse_start(initial.to(pair.fixed.device), pair.moving.grid, self.lattice_mm),
            list[Record](),
        )

        def on_record(record: Record) -> None:
            heard.append(record)
            if progress is not None:
                progress(record)

        def fitted_back(said: Progress | None) -> StageResult:
            return self.stage.run(pair.swapped(), inverse, seed=seed, progress=said)

        there: StageResult | None = None
        try:
            with run_in_background(fitted_back, pair.fixed.device) as way_back:
                there = self.stage.run(pair, initial, seed=seed, progress=progress)
                if there.outcome in STOPPING_OUTCOMES:
                    return there
                back = way_back(on_record)
            return self._half_way(there, back, pair, watch)
        except KeyboardInterrupt:
            if there is None:
                raise
            # which ends with what is kept
            return replace(
                there,
                outcome=Outcome.INTERRUPTED,
                seconds=watch.seconds,
                history=[*heard, *there.history],
            )

    def _half_way(
        self, there: StageResult, back: StageResult, pair: ImagePair, watch: Stopwatch
    ) -> StageResult:
        if back.outcome in STOPPING_OUTCOMES:
            return replace(
                there,
                outcome=back.outcome,
                seconds=watch.seconds,
                history=[*back.history, *there.history],
            )
        mean, apart = halfway(
            there.transform, back.transform, pair.fixed.grid.covering(self.lattice_mm, margin=1)
        )
        outcome = overall([there.outcome, back.outcome])
        return StageResult(
            self.name,
            mean,
            outcome,
            watch.seconds,
            [*there.history, *back.history],
            {"disagreement_mm": _summary(apart, mean.lattice, pair)},
        )


@torch.no_grad()
def inverse_start(transform: Transform, grid: Grid, lattice_mm: float) -> Transform:
    """The inverse of a spline followed by anything, as a spline over ``grid`` (of the moving image)
    followed by the inverse of the rest.

    Raises:
        InputError: ``transform`` does not begin with a ``BSpline``.
    """
    first, rest = parted(transform)
    if not isinstance(first, BSpline):
        raise InputError(
            "only a map that begins with a free-form deformation is inverted as one, got"
            f" {type(first).__name__}"
        )
    lattice = grid.covering(lattice_mm, margin=1)
    knots = lattice.points(device=transform.device)
    preimage, _ = NumericInverse(transform).solve(knots)
    moved = preimage if rest is None else rest(preimage)
    return composed(
        interpolating_spline(moved - knots, lattice), None if rest is None else rest.inverse()
    )


@torch.no_grad()
def halfway(
    there: Transform, back: Transform, lattice: Grid
) -> tuple[BSpline, Float[Tensor, "*lattice"]]:
    """The spline through the mean of ``there`` and the inverse of ``back`` at the knots of
    ``lattice``, and how far both lie apart there, mm.
    """
    inverse = NumericInverse(back)
    knots = lattice.points(device=there.device)
    u = there.displacement_on(lattice)
    preimage, residual = inverse.solve(knots)
    v = torch.where((residual <= inverse.tolerance_mm)[..., None], preimage - knots, u)
    return interpolating_spline((u + v) / 2, lattice), (u - v).norm(dim=-1)


def _summary(apart: Float[Tensor, "*lattice"], lattice: Grid, pair: ImagePair) -> dict[str, Any]:
    """How far the two ways lie apart inside the fixed mask."""
    mask = as_weight(pair.fixed_mask, pair.fixed.grid, pair.fixed.device)
    values = apart[linear(mask, lattice.points(device=apart.device), outside=0.0)[0] > 0.5]
    if len(values) == 0:
        values = apart.flatten()
    return {
        "mean": float(values.mean()),
        "median": float(values.median()),
        "percent95": float(values.quantile(0.95)),
        "max": float(values.max()),
    }
