"""The robust start: a translation good enough that gradients point the right way.

Candidates come from the headers, the masks, the images' mass and the middles of the grids; each is
judged by normalised mutual information on a coarse level, so images of different kinds are no
problem. Where all of them leave the images apart, a coarse search over the whole moving image
decides.
"""

import logging
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from inrreg.core.errors import InputError
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.core.settings_checks import (
    check_above_zero,
    check_count,
    check_fraction,
    check_not_negative,
)
from inrreg.core.stopwatch import Stopwatch
from inrreg.objective.features import RobustWindow
from inrreg.objective.samplers import WholeGrid
from inrreg.objective.step import Level, Samples, Step
from inrreg.ops.masks import as_weight, centroid
from inrreg.optimisation import Outcome
from inrreg.optimisation.stage_result import Progress, StageResult
from inrreg.similarity import NMI
from inrreg.stages.gradient_registration import Registration
from inrreg.transforms import LinearModel, Transform, Translation
from inrreg.transforms.composite import composed, frozen_copy

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A translation in mm, where it came from, its cost (lower is better) and its overlap.

    Overlap is the share of the fixed mask that falls into the moving image, over the share that
    could: 1 where the smaller of both lies wholly in the other.
    """

    origin: str
    shift: np.ndarray
    cost: float
    overlap: float

    def __str__(self) -> str:
        return (
            f"{self.origin} {np.round(self.shift, 1).tolist()} mm (cost {self.cost:.4f}, overlap"
            f" {100 * self.overlap:.0f} %)"
        )


@dataclass(frozen=True)
class InitialTranslation:
    """Chooses the initial translation.

    The headers are used unless another candidate lowers the cost by more than ``margin``. A
    candidate must reach ``least_overlap``; where none does, shifts on a lattice of ``search_steps``
    an axis over the moving image are tried and the best one is refined.
    """

    level_mm: float = 8.0
    margin: float = 0.05
    least_overlap: float = 0.4
    search_steps: int = 5
    name: str = "start"

    def __post_init__(self) -> None:
        check_above_zero(self, "level_mm")
        check_not_negative(self, "margin")
        check_fraction(self, "least_overlap")
        check_count(self, "search_steps", least=0)

    def run(
        self,
        pair: ImagePair,
        initial: Transform | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> StageResult:
        """The identity or a translation, composed with ``initial``.

        Raises:
            InputError: no shift brings the images to overlap.
        """
        watch = Stopwatch()
        initial = None if initial is None else frozen_copy(initial, pair.fixed.device)
        score = self._scorer(pair, initial)
        headers, *others = candidates = [
            score(origin, shift) for origin, shift in candidate_shifts(pair, initial).items()
        ]
        sound = [c for c in others if c.overlap >= self.least_overlap]
        best = min(sound, key=lambda c: c.cost, default=headers)
        chosen = (
            headers
            if headers.overlap >= self.least_overlap and headers.cost <= best.cost + self.margin
            else best
        )
        searched = chosen.overlap < self.least_overlap
        if searched:
            chosen = self._search(pair, initial, score)
        for candidate in candidates:
            log.info("start candidate: %s", candidate)
        level = logging.WARNING if headers.overlap == 0 else logging.INFO
        log.log(
            level,
            "%schosen start: %s",
            "the images do not overlap in world space; " if headers.overlap == 0 else "",
            chosen,
        )
        notes = {
            "chosen": chosen.origin,
            "translation_mm": chosen.shift.tolist(),
            "overlap_percent": 100 * chosen.overlap,
            "header_overlap_percent": 100 * headers.overlap,
            "searched": searched,
        }
        transform = composed(
            Translation.by(chosen.shift).to(pair.fixed.device).requires_grad_(False), initial
        )
        return StageResult(self.name, transform, Outcome.CONVERGED, watch.seconds, [], notes)

    def _scorer(self, pair: ImagePair, initial: Transform | None) -> "Scorer":
        scaled = pair.prepared(RobustWindow())
        return Scorer(
            Registration(LinearModel(), (NMI(),), mask_margin_mm=2 * self.level_mm).level(
                scaled, self.level_mm
            ),
            initial,
        )

    def _search(self, pair: ImagePair, initial: Transform | None, score: "Scorer") -> Candidate:
        """Shifts that carry the middle of the fixed mask to a lattice of points over the moving
        image; then, around the best, ever finer ones.
        """
        moving, met = pair.moving.grid, torch.as_tensor(pair.moving.grid.center)
        if initial is not None:
            met = initial.inverse()(met[None].to(initial.device))[0].detach().cpu()
        shift, steps, count = (
            met.numpy() - score.samples.level.fixed.grid.center,
            moving.extent / (self.search_steps - 1),
            self.search_steps,
        )
        while True:
            offsets = product(np.arange(count) - (count - 1) / 2, repeat=moving.ndim)
            tried = [
                score("search", shift + moving.direction @ (np.array(offset) * steps))
                for offset in offsets
            ]
            sound = [c for c in tried if c.overlap >= self.least_overlap] or [
                c for c in tried if c.overlap > 0
            ]
            if not sound:
                raise InputError(
                    f"no shift brings {pair.fixed.name} and {pair.moving.name} to overlap: check"
                    " that both show the same part of the body and that the masks belong to them"
                )
            best = min(sound, key=lambda c: c.cost)
            if steps.max() <= self.level_mm:
                return best
            shift, steps, count = best.shift, steps / 2, 3


class Scorer:
    """Evaluates a translation on one coarse level."""

    def __init__(self, level: Level, initial: Transform | None) -> None:
        self.samples = Samples(level, WholeGrid().draw(level.fixed_mask, torch.Generator()))
        self.initial = initial
        moving_in_fixed_voxels = float(
            np.prod(level.moving.grid.extent) / np.prod(level.fixed.grid.spacing)
        )
        self.possible = min(float(self.samples.weight.sum()), moving_in_fixed_voxels)

    @torch.no_grad()
    def __call__(self, origin: str, shift: np.ndarray) -> Candidate:
        step = Step(
            self.samples, Translation.by(shift).to(self.samples.sites.points.device), self.initial
        )
        overlap = min(1.0, float(step.weight.sum()) / self.possible)
        return Candidate(
            origin, np.asarray(shift), float(NMI()(step)) if overlap > 0 else float("inf"), overlap
        )


def candidate_shifts(pair: ImagePair, initial: Transform | None) -> dict[str, np.ndarray]:
    """Translations of fixed points, mm, by where they come from; the headers come first.

    With an ``initial`` transform only its own map is tried.
    """
    shifts = {"headers": np.zeros(pair.fixed.grid.ndim)}
    if initial is not None:
        return shifts
    if pair.fixed_mask is not None and pair.moving_mask is not None:
        shifts["mask centroids"] = centroid(
            as_weight(pair.moving_mask, pair.moving.grid)
        ) - centroid(as_weight(pair.fixed_mask, pair.fixed.grid))
    shifts["image moments"] = centroid(_mass(pair.moving)) - centroid(_mass(pair.fixed))
    shifts["physical centres"] = pair.moving.grid.center - pair.fixed.grid.center
    return shifts


def _mass(image: Image) -> Image:
    return RobustWindow()(image)
