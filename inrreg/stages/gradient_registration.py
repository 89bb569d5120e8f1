"""Registration = transform + similarities and penalties + optimiser, coarse to fine."""

import copy
import logging
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor

from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.core.settings_checks import (
    check_above_zero,
    check_any,
    check_count,
    check_not_negative,
    check_tuple,
)
from inrreg.core.stopwatch import Stopwatch
from inrreg.core.threads import prefer_kernels
from inrreg.objective.samplers import Sampler, WholeGrid
from inrreg.objective.step import Level, Samples, Step, Term
from inrreg.ops.masks import as_weight, bounding_box, cropped, dilated, without
from inrreg.ops.pyramid import pyramid_level
from inrreg.optimisation import Adam, Optimiser, Outcome, overall
from inrreg.optimisation.stage_result import Progress, Record, StageResult
from inrreg.similarity.landmark_distance import LandmarkDistance
from inrreg.transforms import Transform
from inrreg.transforms.composite import composed, frozen_start

log = logging.getLogger(__name__)


class TransformModel(Protocol):
    """Builds the identity transform of some family over a fixed grid; random weights come from
    ``generator``.
    """

    def build(self, grid: Grid, generator: torch.Generator) -> Transform: ...


@dataclass(frozen=True)
class Scale:
    """One level of the pyramid: image spacing in mm, how long to look, and how fine the transform
    may be there.
    """

    spacing_mm: float
    iterations: int
    control_spacing_mm: float | None = None
    learning_rate: float | None = None

    def __post_init__(self) -> None:
        check_above_zero(self, "spacing_mm", "control_spacing_mm", "learning_rate")
        check_count(self, "iterations")


@dataclass(frozen=True)
class Registration:
    """Fits ``transform`` so that the weighted sum of ``similarities`` and ``penalties`` is least,
    over ``scales`` from coarse to fine.

    ``transform`` is a model that is built over the fixed grid, or a ready transform. A ready
    transform is part of the settings and never changes: a run fits a copy of it. ``fit`` fits a
    transform in place. Similarities are evaluated at the sites of ``sampler``, penalties at those
    of ``penalty_sampler``. The fixed mask is first grown by ``mask_margin_mm``, so that the edge of
    an organ takes part. The moving mask is used where ``use_moving_mask``. It is a ``Stage``:
    ``run(pair, initial)``.
    """

    transform: TransformModel | Transform
    similarities: tuple[Term, ...]
    penalties: tuple[Term, ...] = ()
    optimiser: Optimiser = field(default_factory=Adam)
    scales: tuple[Scale, ...] = (Scale(8, 100), Scale(4, 100), Scale(2, 100))
    sampler: Sampler = field(default_factory=WholeGrid)
    penalty_sampler: Sampler = field(default_factory=WholeGrid)
    mask_margin_mm: float = 0.0
    use_moving_mask: bool = False
    name: str = "continuous"

    def __post_init__(self) -> None:
        check_any(self, "similarities", "similarity", "(LNCC(9.0),)")
        check_any(self, "scales", "scale", "(Scale(4, 50),)")
        check_tuple(self, "penalties", "(Bending(1.0),)")
        check_not_negative(self, "mask_margin_mm")

    def run(
        self,
        pair: ImagePair,
        initial: Transform | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> StageResult:
        """Fit the residual of ``initial``; the result's transform is x -> initial(x + u(x)).

        Raises:
            InputError: a window larger than the lattices it meets.
        """
        watch = Stopwatch()
        generator = torch.Generator().manual_seed(seed)
        transform = (
            copy.deepcopy(self.transform)
            if isinstance(self.transform, Transform)
            else self.transform.build(pair.fixed.grid, generator)
        ).to(pair.fixed.device)
        start = frozen_start(initial, pair.fixed.device)
        outcome, history = self.fit(transform, pair, start, generator, progress)
        log.info("%s: %s after %.1f s", self.name, outcome.label, watch.seconds)
        return StageResult(self.name, composed(transform, start), outcome, watch.seconds, history)

    def fit(
        self,
        transform: Transform,
        pair: ImagePair,
        start: Transform | None,
        generator: torch.Generator,
        progress: Progress | None = None,
    ) -> tuple[Outcome, list[Record]]:
        """Fit ``transform`` in place as the residual of ``start``; both lie on the device of the
        pair, and ``start`` requires no gradient. Random sites come from ``generator``.

        Raises:
            InputError: a window larger than the lattices it meets.
        """
        transform.requires_grad_(True)
        history: list[Record] = []
        outcomes = list[Outcome]()
        with nullcontext() if transform.prefers_torch_threads else prefer_kernels():
            region = None if pair.fixed_mask is None else self.region(pair)
            for scale in self.scales:
                if scale.control_spacing_mm is not None:
                    transform.refine(scale.control_spacing_mm)
                level = self.level(pair, scale.spacing_mm, region)
                log.info(
                    "%s: level %.3g mm, %s voxels",
                    self.name,
                    scale.spacing_mm,
                    " x ".join(map(str, level.fixed.grid.shape)),
                )
                outcomes.append(
                    self._descend(
                        scale, level, pair, transform, start, generator, history, progress
                    )
                )
                if outcomes[-1] in (Outcome.INTERRUPTED, Outcome.NON_FINITE):
                    break
        transform.requires_grad_(False)
        return overall(outcomes), history

    def region(self, pair: ImagePair) -> Image:
        """The fixed mask, grown by ``mask_margin_mm``; everything where there is none."""
        mask = as_weight(pair.fixed_mask, pair.fixed.grid, pair.fixed.device)
        return mask if pair.fixed_mask is None else dilated(mask, self.mask_margin_mm)

    def level(self, pair: ImagePair, spacing_mm: float, region: Image | None = None) -> Level:
        """Both images at ``spacing_mm``, the fixed one cropped to its mask; lesions take no part.

        ``region`` is that of the pair, where it has been made.
        """
        fixed, mask = pair.fixed, self.region(pair) if region is None else region
        if pair.fixed_mask is not None:
            box = bounding_box(mask, 4 * spacing_mm)
            fixed, mask = cropped(fixed, *box), cropped(mask, *box)
        moving_mask = (
            as_weight(pair.moving_mask, pair.moving.grid, pair.fixed.device)
            if self.use_moving_mask and pair.moving_mask is not None
            else None
        )
        if pair.moving_lesion is not None:
            moving_mask = without(
                as_weight(moving_mask, pair.moving.grid, pair.fixed.device), pair.moving_lesion
            )
        if pair.fixed_lesion is not None:
            mask = without(mask, pair.fixed_lesion)
        fixed, moving, mask = (
            pyramid_level(image, spacing_mm) for image in (fixed, pair.moving, mask)
        )
        return Level(
            fixed,
            moving,
            mask,
            None if moving_mask is None else pyramid_level(moving_mask, spacing_mm),
        )

    def _descend(
        self,
        scale: Scale,
        level: Level,
        pair: ImagePair,
        transform: Transform,
        start: Transform | None,
        generator: torch.Generator,
        history: list[Record],
        progress: Progress | None,
    ) -> Outcome:
        similarities = (
            self.similarities
            if pair.guides is None
            else (*self.similarities, LandmarkDistance(*pair.guides))
        )
        images, geometry = (
            _samples(self.sampler, level, generator),
            _samples(self.penalty_sampler, level, generator),
        )
        latest: dict[str, float] = {}

        def cost() -> Tensor:
            present = transform.materialised()
            step = Step(next(images), present, start)
            values = [(term, term(step)) for term in similarities]
            if self.penalties:
                shape = (
                    step
                    if self.penalty_sampler == self.sampler and self.sampler.deterministic
                    else Step(next(geometry), present, start)
                )
                values += [(term, term(shape)) for term in self.penalties]
            weighted = [term.weight * value for term, value in values]
            latest.clear()
            # terms may share a name, as two windows of one measure do
            for (term, _), summand in zip(values, weighted, strict=True):
                latest[term.name] = latest.get(term.name, 0.0) + float(summand.detach())
            return torch.stack(weighted).sum()

        def watch(iteration: int, value: float) -> None:
            record = Record(
                self.name, scale.spacing_mm, iteration, scale.iterations, value, dict(latest)
            )
            history.append(record)
            if progress is not None:
                progress(record)

        return self.optimiser.minimise(
            cost, transform.parameters(), scale.iterations, scale.learning_rate, watch
        )

    def with_scales(self, *scales: Scale) -> "Registration":
        """The same registration over other levels."""
        return replace(self, scales=scales)


def _samples(sampler: Sampler, level: Level, generator: torch.Generator) -> Iterator[Samples]:
    """The samples of each step: the same ones again where the sampler is deterministic, else new
    ones.
    """
    samples = Samples(level, sampler.draw(level.fixed_mask, generator))
    while True:
        yield samples
        if not sampler.deterministic:
            samples = Samples(level, sampler.draw(level.fixed_mask, generator))
