"""Discrete registration: searches of decreasing range, each starting from the result of the one
before; their results are composed.

No gradient is followed, so motion up to the range of the first search is found without a smooth
path of decreasing cost.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from graphreg.densify import Densifier, ThinPlate, robust
from graphreg.inference import Quadratic, TreeMinSum
from graphreg.keypoints import FilledKeypoints, Foerstner
from graphreg.labels import Labels, Lengths
from graphreg.search import Matches, Search
from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, Points
from inrreg.core.image_pair import Correspondences, ImagePair
from inrreg.core.settings_checks import check_above_zero, check_any
from inrreg.core.stopwatch import Stopwatch
from inrreg.core.threads import prefer_kernels
from inrreg.objective.features import Feature, RobustWindow
from inrreg.optimisation import Outcome
from inrreg.optimisation.stage_result import Progress, Record, StageResult
from inrreg.transforms import BSpline, Composite, Transform
from inrreg.transforms.bspline import interpolating_spline
from inrreg.transforms.composite import composed, frozen_start

log = logging.getLogger(__name__)


def shrinking_searches(
    range_mm: Lengths = 40.0, keypoints: tuple[int, int] = (2000, 2500)
) -> tuple[Search, ...]:
    """A search over ``range_mm`` (one number, or along x, y, z) in steps of 4 mm, then one over 12
    mm in steps of 2 mm, at corners and at points that fill the gaps. The search with more labels
    couples neighbours more strongly.
    """
    first, second = (
        FilledKeypoints(Foerstner(count, spacing_mm), count)
        for count, spacing_mm in zip(keypoints, (6.0, 4.0), strict=True)
    )
    return Search(Labels(range_mm, 4.0), first, inference=TreeMinSum(Quadratic(0.004))), Search(
        Labels(12.0, 2.0), second, inference=TreeMinSum(Quadratic(0.001))
    )


@dataclass(frozen=True)
class GraphRegistration:
    """Runs ``searches`` one after the other, each on the moving image warped by the result so far;
    a ``Stage``.

    After each search ``densifier`` fits a spline on a lattice of ``lattice_mm`` to the keypoints,
    weighted by their confidence, and by less where the residual is above ``outlier_mm``. No cost
    volume takes more than ``memory_mb``.
    """

    searches: tuple[Search, ...] = field(default_factory=shrinking_searches)
    densifier: Densifier = field(default_factory=ThinPlate)
    lattice_mm: float = 8.0
    outlier_mm: float = 2.0
    memory_mb: float = 2048.0
    name: str = "graph"

    def __post_init__(self) -> None:
        check_any(self, "searches", "search", "(Search(Labels(32, 4)),)")
        check_above_zero(self, "lattice_mm", "outlier_mm", "memory_mb")

    @prefer_kernels()
    def run(
        self,
        pair: ImagePair,
        initial: Transform | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> StageResult:
        """Find the residual u of ``initial``: the result's transform is x -> initial(x + u(x)), its
        correspondences are the keypoints of the last search.

        Raises:
            InputError: no keypoint, too few for the graph or the densifier, a range
                larger than the image, or a cost volume beyond the bound on the memory.
        """
        for search in self.searches:
            search.labels.facing(pair.fixed.grid).check_within(pair.fixed.grid)
        watch, generator = Stopwatch(), torch.Generator().manual_seed(seed)
        start = frozen_start(initial, pair.fixed.device)
        total = start
        found: BSpline | None = None
        history = list[Record]()
        summaries = list[dict[str, float]]()
        for search in self.searches:
            matches = search.run(pair, total, generator, self.memory_mb)
            correspondences = _correspondences(matches, total)
            residual = self._dense(matches, pair.fixed.grid)
            found = residual if found is None else merged(residual, found)
            total = composed(found, start)
            summaries.append(matches.summary())
            history.append(self._record(search, matches))
            self._log(search, summaries[-1], len(matches.keypoints))
            if progress is not None:
                progress(history[-1])
        assert total is not None
        return StageResult(
            self.name,
            total,
            Outcome.CONVERGED,
            watch.seconds,
            history,
            {"searches": summaries},
            correspondences,
        )

    def _record(self, search: Search, matches: Matches) -> Record:
        """A search as one iteration, its step between labels as the level."""
        step_mm = float(np.max(search.labels.step_mm))
        return Record(self.name, step_mm, 0, 1, matches.cost, {"data": matches.cost})

    def _log(self, search: Search, summary: dict[str, float], n_keypoints: int) -> None:
        log.info(
            "%s: %d keypoints, range %s mm: moved by %.2f mm, confidence %.2f",
            self.name,
            n_keypoints,
            search.labels.range_mm,
            summary["mean_displacement_mm"],
            summary["mean_confidence"],
        )

    def _dense(self, matches: Matches, grid: Grid) -> BSpline:
        lattice = grid.covering(self.lattice_mm, margin=1)
        spline, _ = robust(
            self.densifier,
            matches.keypoints,
            matches.displacements,
            matches.confidence,
            lattice,
            self.outlier_mm,
        )
        return spline


def merged(first: BSpline, then: BSpline) -> BSpline:
    """x -> then(first(x)) as one spline on the lattice of ``first``: exact at its knots, so that a
    chain of searches costs no more than one.
    """
    return interpolating_spline(
        Composite([first, then]).displacement_on(first.lattice), first.lattice
    )


def _correspondences(matches: Matches, before: Transform | None) -> Correspondences:
    """The keypoints in the fixed image, and where they were found in the moving one."""
    with torch.no_grad():
        moved = (matches.keypoints + matches.displacements).double()
        partners = moved if before is None else before(moved)
    return Correspondences(
        Points(matches.keypoints.double().cpu(), name="fixed keypoints"),
        Points(partners.cpu(), name="moving keypoints"),
        matches.confidence.cpu(),
    )


def register(
    fixed: Image,
    moving: Image,
    fixed_mask: Image | None = None,
    moving_mask: Image | None = None,
    *,
    initial: Transform | None = None,
    intensity: Feature | None = None,
    searches: Sequence[Search] | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    **settings: Any,
) -> StageResult:
    """Find large motion between two images by discrete search; ``result.transform`` maps fixed to
    moving world points, RAS mm, and is what ``inrreg.register(initial=...)`` takes.

    Keypoints lie where ``fixed_mask`` is 1 (everywhere without one). ``initial`` is improved on;
    without it the headers must bring the images within the range of the first search. ``intensity``
    is applied to both images first (0.5 to 99.5 percentiles to 0 ... 1 unless given). ``settings``
    are those of ``GraphRegistration``. For files use ``inrreg.register(..., preset="graph")``.

    Raises:
        InputError: see ``GraphRegistration.run``.
    """
    if not (isinstance(fixed, Image) and isinstance(moving, Image)):
        raise InputError(
            f"graphreg.register takes inrreg Images, got {type(fixed).__name__} and"
            f" {type(moving).__name__}; read files with inrreg.io.read_image, or use"
            " inrreg.register(..., preset='graph')"
        )
    pair = (
        ImagePair(fixed, moving, fixed_mask, moving_mask)
        .to(device)
        .prepared(intensity or RobustWindow())
    )
    stage = (
        GraphRegistration(**settings)
        if searches is None
        else GraphRegistration(tuple(searches), **settings)
    )
    return stage.run(pair, initial, seed=seed)
