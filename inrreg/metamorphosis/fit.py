"""Registration by shooting: the initial momentum whose geodesic carries the moving image onto the
fixed one, apart from what has no counterpart.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor, nn

from inrreg.core.errors import FrameError, InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.core.stopwatch import Stopwatch
from inrreg.metamorphosis.shooting import Hamiltonian, Memory, Shooting, State, stored
from inrreg.metamorphosis.velocity_kernels import Kernel
from inrreg.metamorphosis.weights import UniformWeight, Weight, ZeroWeight
from inrreg.ops.masks import as_weight
from inrreg.ops.pyramid import pyramid_level
from inrreg.ops.sampling import linear
from inrreg.ops.separable import apply_along_axes, resampling
from inrreg.ops.small_matrices import determinant
from inrreg.optimisation import LBFGS, Optimiser, Outcome
from inrreg.optimisation.stage_result import Progress, Record, StageResult
from inrreg.stages.protocol import STOPPING_OUTCOMES
from inrreg.transforms import Composite, DenseDisplacement, Transform
from inrreg.transforms.composite import composed, frozen_start

log = logging.getLogger(__name__)

REFUSAL = 10.0
"""Cost of a momentum whose path breaks down, over the cost at the start of a resolution: a line
search then takes a shorter step.
"""


def lddmm(kernel: Kernel) -> Hamiltonian:
    """All change is motion (Miller, Trouve and Younes, J. Math. Imaging Vis. 2006)."""
    return Hamiltonian(kernel, ZeroWeight(), 1.0)


def metamorphosis(kernel: Kernel, rho: float) -> Hamiltonian:
    """Intensity may change anywhere; the nearer ``rho`` is to 1 the dearer."""
    return Hamiltonian(kernel, UniformWeight(), rho)


def weighted_metamorphosis(kernel: Kernel, rho: float, weight: Weight) -> Hamiltonian:
    """Intensity may change where ``weight`` says that there is no counterpart: ``MaskWeight`` or
    ``EvolvingMaskWeight``.
    """
    return Hamiltonian(kernel, weight, rho)


@dataclass(frozen=True)
class Resolution:
    """One level from coarse to fine: voxel size in mm (never finer than the fixed image's) and the
    most iterations there.
    """

    spacing_mm: float
    iterations: int


@dataclass(eq=False, kw_only=True)
class ShootingResult(StageResult):
    """What shooting found, on the grid of the finest resolution: every image lies on
    ``momentum.grid``, in the fixed space.

    ``transform`` is the whole map fixed -> moving, ``inverse`` the backward map, from the same flow
    integrated the other way. ``momentum`` is p_0, and determines all else. ``images`` are I_t from
    the moving image (start applied) at t = 0 to the metamorphosed one at t = 1; ``momenta`` are p_t
    and ``residuals`` the intensity A_t added so far. ``energies`` are the values of H along the
    path, which the exact flow keeps constant where the weight is.
    """

    inverse: Transform
    momentum: Image
    images: list[Image]
    momenta: list[Image]
    residuals: list[Image]
    energies: list[float]

    @property
    def residual(self) -> Image:
        """A_1: what was added that is not motion, where it lies in the fixed image; intensity
        units.
        """
        return self.residuals[-1]

    @property
    def deformed(self) -> Image:
        """The moving image carried by the map alone: I_1 - A_1.

        The image by which a registration is evaluated.
        """
        return self.images[-1].with_data(self.images[-1].data - self.residual.data)


@dataclass(frozen=True)
class Metamorphosis:
    """Finds p_0 so that

        1/2 mean over the fixed mask of |I_1 - F|^2  +  ``regularisation`` x mean over time of H

    is least: ``hamiltonian`` says what may move and what may change (``lddmm``, ``metamorphosis``,
    ``weighted_metamorphosis``), in ``steps`` steps of time.

    The exact flow never folds. Where it does, or is not finite, the steps of time were too long for
    the momentum, which is refused: a line search comes back from there (Adam does not know how). It
    is a ``Stage``: ``run(pair, initial)``. Scale both images to 0 ... 1 first, in one way, for
    instance by ``pair.prepared(RobustWindow())``. The moving image is drawn on the grid of the
    fixed one, by ``initial`` where there is one; what lies beyond that grid is not seen. A lesion
    left out by the fixed mask (1 = use) makes of LDDMM what is called cost-function masking. The
    moving mask has no say. Several channels are summed.
    """

    hamiltonian: Hamiltonian
    regularisation: float = 1e-3
    steps: int = 10
    resolutions: Sequence[Resolution] = (Resolution(4, 30), Resolution(2, 30), Resolution(1, 30))
    optimiser: Optimiser = field(default_factory=LBFGS)
    memory: Memory = stored
    name: str = "metamorphosis"

    def run(
        self,
        pair: ImagePair,
        initial: Transform | None = None,
        *,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> ShootingResult:
        """Fit the residual of ``initial``; nothing is random, so ``seed`` changes nothing.

        Raises:
            InputError: images of unequal channels or with values that are not finite, guiding
                landmarks, no resolution, or a negative regularisation.
            FrameError: images, masks and start that are not all 2-D or all 3-D, or a fixed mask on
                another grid than its image.
        """
        self._check(pair)
        watch, outcome, history = Stopwatch(), Outcome.CONVERGED, list[Record]()
        start = frozen_start(initial, pair.fixed.device)
        momentum: Image | None = None
        for resolution in self.resolutions:
            fixed = pyramid_level(pair.fixed, resolution.spacing_mm)
            weight = pyramid_level(
                as_weight(pair.fixed_mask, pair.fixed.grid, pair.fixed.device),
                resolution.spacing_mm,
            )
            moving = _resampled(pyramid_level(pair.moving, resolution.spacing_mm), start, fixed)
            momentum = (
                fixed.with_data(torch.zeros_like(fixed.data))
                if momentum is None
                else _refined(momentum, fixed.grid)
            )
            shooting = Shooting(self.hamiltonian, moving, self.steps, self.memory)
            momentum = _shootable(momentum, shooting)
            log.info(
                "%s: level %.3g mm, %s voxels",
                self.name,
                resolution.spacing_mm,
                " x ".join(map(str, fixed.grid.shape)),
            )
            outcome, momentum = self._descend(
                shooting, fixed, weight, momentum, resolution, history, progress
            )
            if outcome in STOPPING_OUTCOMES:
                break
        assert momentum is not None
        log.info("%s: %s after %.1f s", self.name, outcome.label, watch.seconds)
        return _result(self.name, shooting, momentum, start, outcome, watch, history)

    def _check(self, pair: ImagePair) -> None:
        if pair.fixed.channels != pair.moving.channels:
            raise InputError(
                f"{pair.fixed.name} has {pair.fixed.channels} channels and {pair.moving.name} has"
                f" {pair.moving.channels}; shooting compares them one by one, so give both the same"
                " contrasts"
            )
        for image in (pair.fixed, pair.moving):
            if not bool(torch.isfinite(image.data).all()):
                raise InputError(
                    f"{image.name} holds voxels that are NaN or infinite; replace them, for"
                    " instance by the value of air with numpy.nan_to_num"
                )
        if pair.fixed_mask is not None and not pair.fixed_mask.grid.same_as(pair.fixed.grid):
            raise FrameError(
                f"{pair.fixed_mask.name} lies on {pair.fixed_mask.grid}, but {pair.fixed.name} on"
                f" {pair.fixed.grid}; resample the mask onto the image's grid by the nearest"
                " neighbour"
            )
        if pair.guides is not None:
            raise InputError(
                "shooting follows the intensities alone; use the guiding landmarks in a stage"
                " before it, and hand over its transform as `initial`"
            )
        if not self.resolutions:
            raise InputError(
                "a metamorphosis needs at least one resolution, for instance"
                " resolutions=(Resolution(2, 30),)"
            )
        if not self.regularisation >= 0:
            raise InputError(
                f"the regularisation is a weight of 0 or more, got {self.regularisation}"
            )

    def _descend(
        self,
        shooting: Shooting,
        fixed: Image,
        weight: Image,
        momentum: Image,
        resolution: Resolution,
        history: list[Record],
        progress: Progress | None,
    ) -> tuple[Outcome, Image]:
        # torch's L-BFGS begins with a step of length 1, summed over the parameters: in this unit it
        # changes the momentum by 1 mm^2 on average
        unit = float(fixed.grid.n_voxels)
        parameter = nn.Parameter(momentum.data / unit)
        latest: dict[str, float] = {}
        start: float | None = None

        def cost() -> Tensor:
            nonlocal start
            states = list(shooting.trajectory(unit * parameter))
            if start is not None and not shooting.intact(states[-1]):
                return REFUSAL * start + 0 * parameter.sum()
            difference = (weight.data * (states[-1].image - fixed.data).square()).sum() / (
                2 * weight.data.sum()
            ).clamp(min=1e-6)
            energy = self.regularisation * path_energy(states)
            latest.update(difference=float(difference.detach()), energy=float(energy.detach()))
            total = difference + energy
            start = float(total.detach()) if start is None else start
            return total

        def watch(iteration: int, value: float) -> None:
            history.append(
                Record(
                    self.name,
                    resolution.spacing_mm,
                    iteration,
                    resolution.iterations,
                    value,
                    dict(latest),
                )
            )
            if progress is not None:
                progress(history[-1])

        outcome = self.optimiser.minimise(cost, [parameter], resolution.iterations, watch=watch)
        return outcome, momentum.with_data(unit * parameter.detach())


def path_energy(states: Sequence[State]) -> Float[Tensor, ""]:
    """Mean of H over time, by the trapezoidal rule: half the squared length of the path where H is
    constant.
    """
    energies = torch.stack([state.energy for state in states])
    return 0.5 * (energies[1:] + energies[:-1]).mean()


def _resampled(moving: Image, start: Transform | None, fixed: Image) -> Image:
    """The moving image on the grid of ``fixed``, its border values held beyond it."""
    points = fixed.grid.points(moving.data.dtype, moving.device)
    with torch.no_grad():
        return moving.with_data(
            linear(moving, points if start is None else start(points)), fixed.grid
        )


def _refined(momentum: Image, grid: Grid) -> Image:
    return (
        momentum
        if momentum.grid.same_as(grid)
        else momentum.with_data(
            apply_along_axes(momentum.data, resampling(grid, momentum.grid)), grid
        )
    )


@torch.no_grad()
def _shootable(momentum: Image, shooting: Shooting) -> Image:
    """Halved until its path is intact, as at rest it is: on a finer grid the edges are steeper, and
    so are the forces.
    """
    while not shooting.intact(list(shooting.trajectory(momentum.data))[-1]):
        momentum = momentum.with_data(0.5 * momentum.data)
    return momentum


@torch.no_grad()
def _result(
    name: str,
    shooting: Shooting,
    momentum: Image,
    start: Transform | None,
    outcome: Outcome,
    watch: Stopwatch,
    history: list[Record],
) -> ShootingResult:
    """The path of the momentum that was found, and the map both ways."""
    grid, states = shooting.grid, list(shooting.trajectory(momentum.data))
    points = grid.points(momentum.data.dtype, momentum.device)
    arrival = torch.zeros_like(points)
    for state in states[:-1]:
        arrival = arrival + shooting.arrival(state, points + arrival)
    forward, backward = (
        DenseDisplacement(u, grid).requires_grad_(False) for u in (states[-1].displacement, arrival)
    )
    det = determinant(shooting.jacobian(states[-1].displacement))
    notes = {
        "det_min": float(det.min()),
        "folded_percent": 100 * float((det <= 0).to(torch.float32).mean()),
        "inverse_error_mm": _disagreement_mm(forward, backward, points),
    }

    def along(field: str) -> list[Image]:
        return [shooting.image.with_data(getattr(state, field)) for state in states]

    return ShootingResult(
        name=name,
        transform=composed(forward, start),
        outcome=outcome,
        seconds=watch.seconds,
        history=history,
        notes=notes,
        inverse=backward if start is None else Composite([start.inverse(), backward]),
        momentum=momentum,
        images=along("image"),
        momenta=along("momentum"),
        residuals=along("appearance"),
        energies=[float(state.energy) for state in states],
    )


def _disagreement_mm(forward: Transform, backward: Transform, points: Tensor) -> float:
    """Mean over ``points`` of |backward(forward(x)) - x|, mm."""
    return float((backward(forward(points)) - points).norm(dim=-1).mean())
