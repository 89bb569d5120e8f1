"""A forward and a backward fit of one pair, and the mean of the first and the inverse of the
second.
"""

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
from inrreg.transforms.composite import composed, frozen_copy


@dataclass(frozen=True)
class BothDirections:
    """Runs ``stage`` from fixed to moving, which gives T, and from moving to fixed, which gives S;
    the result is x -> (T(x) + S^-1(x)) / 2.

    Both are fitted at the same time where there are two threads. The errors of the two fits differ,
    so their mean has a smaller error, and their distance is a measure of it. The mean is a spline
    with a knot spacing of ``lattice_mm``; where S cannot be inverted it is T (after Christensen and
    Johnson, IEEE TMI 2001, who use a penalty for the agreement).
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
        """The mean of both; an interrupt leaves the result of the forward fit.

        Raises:
            InputError: ``initial`` does not begin with a ``BSpline``.
        """
        watch = Stopwatch()
        if initial is None or not isinstance(parted(initial)[0], BSpline):
            return self.stage.run(pair, initial, seed=seed, progress=progress)  # which refuses it
        inverse, records = (
            inverse_start(
                frozen_copy(initial, pair.fixed.device), pair.moving.grid, self.lattice_mm
            ),
            list[Record](),
        )

        def report(record: Record) -> None:
            records.append(record)
            if progress is not None:
                progress(record)

        def fit_backward(on_record: Progress | None) -> StageResult:
            return self.stage.run(pair.swapped(), inverse, seed=seed, progress=on_record)

        forward: StageResult | None = None
        try:
            with run_in_background(fit_backward, pair.fixed.device) as wait_for_backward:
                forward = self.stage.run(pair, initial, seed=seed, progress=progress)
                if forward.outcome in STOPPING_OUTCOMES:
                    return forward
                backward = wait_for_backward(report)
            return self._half_way(forward, backward, pair, watch)
        except KeyboardInterrupt:
            if forward is None:
                raise
            return replace(
                forward,
                outcome=Outcome.INTERRUPTED,
                seconds=watch.seconds,
                history=[*records, *forward.history],
            )

    def _half_way(
        self, forward: StageResult, backward: StageResult, pair: ImagePair, watch: Stopwatch
    ) -> StageResult:
        if backward.outcome in STOPPING_OUTCOMES:
            return replace(
                forward,
                outcome=backward.outcome,
                seconds=watch.seconds,
                history=[*backward.history, *forward.history],
            )
        mean, disagreement_mm = halfway(
            forward.transform,
            backward.transform,
            pair.fixed.grid.covering(self.lattice_mm, margin=1),
        )
        outcome = overall([forward.outcome, backward.outcome])
        return StageResult(
            self.name,
            mean,
            outcome,
            watch.seconds,
            [*forward.history, *backward.history],
            {"disagreement_mm": _summary(disagreement_mm, mean.lattice, pair)},
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
    forward: Transform, backward: Transform, lattice: Grid
) -> tuple[BSpline, Float[Tensor, "*lattice"]]:
    """The spline through the mean of ``forward`` and the inverse of ``backward`` at the knots of
    ``lattice``, and their distance there, mm.
    """
    inverse = NumericInverse(backward)
    knots = lattice.points(device=forward.device)
    u = forward.displacement_on(lattice)
    preimage, residual = inverse.solve(knots)
    v = torch.where((residual <= inverse.tolerance_mm)[..., None], preimage - knots, u)
    return interpolating_spline((u + v) / 2, lattice), (u - v).norm(dim=-1)


def _summary(
    disagreement_mm: Float[Tensor, "*lattice"], lattice: Grid, pair: ImagePair
) -> dict[str, Any]:
    """Statistics of the disagreement inside the fixed mask, mm."""
    mask = as_weight(pair.fixed_mask, pair.fixed.grid, pair.fixed.device)
    values = disagreement_mm[
        linear(mask, lattice.points(device=disagreement_mm.device), outside=0.0)[0] > 0.5
    ]
    if len(values) == 0:
        values = disagreement_mm.flatten()
    return {
        "mean": float(values.mean()),
        "median": float(values.median()),
        "percent95": float(values.quantile(0.95)),
        "max": float(values.max()),
    }
