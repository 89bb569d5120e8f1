"""Metamorphosis as a Hamiltonian system on a grid, and its semi-Lagrangian integration (Trouve and
Younes 2005; Francois, Gori and Glaunes, GSI 2021).

The state is the image I and its momentum p, one a channel. With the force m = sum over channels of
p grad I, a kernel K, a weight w in 0 ... 1 (``weights``) and a balance rho in 0 ... 1 between
motion (1) and change of intensity (0)

    H(I, p) = rho / 2 <m, K m>  +  (1 - rho) / 2 <p, w p>

    v = -rho K m,    dI/dt = -v . grad I + (1 - rho) w p,    dp/dt = -div(p v)

One convention for every norm: <f, g> is the mean over voxels of the sum over components. Lengths
are in mm, time runs from 0 to 1, and a change of intensity by 1 is counted as 1 mm is: scale images
to 0 ... 1, and let rho say what a unit of intensity costs. H and lambda then do not depend on voxel
size or field of view.

What is carried along is the map psi = phi_t^-1, from the grid to the moving image, and the
intensity A added so far; nothing else is interpolated twice:

    I_t = I_0 o psi + A_t,    p_t = det(D psi) p_0 o psi,    dA/dt = -v . grad A + (1 - rho) w p

so neither image nor momentum blurs with the number of steps. A step follows each voxel back along
the velocity at half time, extrapolated from the last two (Hortal, Q. J. R. Meteorol. Soc. 2002);
the source is the mean of both ends. Both are of second order in time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.metamorphosis.velocity_kernels import Kernel
from inrreg.metamorphosis.weights import Weight
from inrreg.ops.sampling import linear
from inrreg.ops.small_matrices import determinant

Memory = Callable[..., Any]
"""How a step is run: ``stored`` or ``recomputed``, called with the step and its arguments."""
LEAST_VOXELS = 3
"""Along each axis, for central differences."""


def stored(step: Callable[..., Any], *arguments: Any) -> Any:
    """Keep what the gradient of a step needs: fast."""
    return step(*arguments)


def recomputed(step: Callable[..., Any], *arguments: Any) -> Any:
    """Keep the state between steps only, and compute each step again for its gradient: a fraction
    of the memory, about a third more time.
    """
    return checkpoint(step, *arguments, use_reentrant=False, preserve_rng_state=False)


class State(NamedTuple):
    """Everything at one time, at the voxels of the grid; lengths in mm."""

    displacement: Float[Tensor, "*shape d"]
    """psi(x) - x."""
    image: Float[Tensor, "c *shape"]
    """I_t."""
    appearance: Float[Tensor, "c *shape"]
    """A_t: the intensity added so far, where it has been carried to."""
    momentum: Float[Tensor, "c *shape"]
    """p_t."""
    source: Float[Tensor, "c *shape"]
    """(1 - rho) w p: intensity added a unit of time."""
    velocity: Float[Tensor, "*shape d"]
    """v_t, mm a unit of time."""
    at_half: Float[Tensor, "*shape d"]
    """v at half time of the step that starts here."""
    energy: Float[Tensor, ""]
    """H."""


@dataclass(frozen=True, eq=False)
class Hamiltonian:
    """H of the module's head.

    LDDMM is rho = 1, metamorphosis ``UniformWeight``, weighted metamorphosis ``MaskWeight`` or
    ``EvolvingMaskWeight``.

    Raises:
        InputError: ``rho`` outside 0 ... 1.
    """

    kernel: Kernel
    weight: Weight
    rho: float

    def __post_init__(self) -> None:
        if not 0 <= self.rho <= 1:
            raise InputError(
                "rho lies between 0 (change of intensity alone) and 1 (motion alone), got"
                f" {self.rho}"
            )


class Shooting:
    """The flow of ``hamiltonian`` from ``image``, the moving image on the grid of the fixed one, in
    ``steps`` steps from t = 0 to 1; in the precision and on the device of the image.

    Beyond the grid the border values of image and momentum are held, and the kernel sees no force.

    Raises:
        InputError: no step, or an image with too few voxels for differences.
    """

    def __init__(
        self, hamiltonian: Hamiltonian, image: Image, steps: int, memory: Memory = stored
    ) -> None:
        if steps < 1:
            raise InputError(f"shooting needs at least one step, got {steps}")
        if min(image.grid.shape) < LEAST_VOXELS:
            raise InputError(
                f"{image.name} has the shape {image.grid.shape}, and shooting needs {LEAST_VOXELS}"
                " voxels along each axis for its differences; use a 2-D image for a single slice"
            )
        self.image, self.rho, self.steps, self.memory = image, hamiltonian.rho, steps, memory
        self._kernel = hamiltonian.kernel.on(image.grid, image.data)
        self._weights = hamiltonian.weight.on(image.grid, steps, image.data)
        self._points = image.grid.points(image.data.dtype, image.device)
        self._voxel_per_mm = torch.as_tensor(
            np.linalg.inv(image.grid.matrix), dtype=image.data.dtype, device=image.device
        )

    @property
    def grid(self) -> Grid:
        return self.image.grid

    def trajectory(self, momentum: Float[Tensor, "c *shape"]) -> Iterator[State]:
        """The ``steps`` + 1 states from the initial ``momentum``; differentiable by it."""
        force = self._force(self.image.data, momentum)
        state = self.memory(self._begin, momentum, force)
        yield state
        for k in range(1, self.steps + 1):
            state = self.memory(
                self._advance, state, torch.cat([self.image.data, momentum, force]), k
            )
            yield state

    def _begin(self, momentum: Tensor, force: Tensor) -> State:
        still, source = torch.zeros_like(self._points), (1 - self.rho) * self._weights[0] * momentum
        velocity, energy = self._velocity(force, momentum, source)
        return State(
            still,
            self.image.data,
            torch.zeros_like(momentum),
            momentum,
            source,
            velocity,
            velocity,
            energy,
        )

    def _advance(self, state: State, initial: Tensor, k: int) -> State:
        """From t = (k - 1) dt to k dt; ``initial`` holds image, momentum and force at t = 0."""
        dt, c, d = 1 / self.steps, self.image.channels, self.grid.ndim
        back = self.departure(state)
        carried = torch.cat(
            [state.displacement.movedim(-1, 0), state.appearance + 0.5 * dt * state.source]
        )
        arrived = self._sample(carried, self._points + back)
        displacement = arrived[:d].movedim(0, -1) + back
        jacobian = self.jacobian(displacement)
        image, density, force = self._sample(initial, self._points + displacement).split([c, c, d])
        volume = determinant(jacobian)
        momentum = volume * density
        source = (1 - self.rho) * self._weights[k] * momentum
        appearance = arrived[d:] + 0.5 * dt * source
        turned = volume * (force.movedim(0, -1)[..., None, :] @ jacobian)[..., 0, :].movedim(-1, 0)
        velocity, energy = self._velocity(
            turned + self._force(appearance, momentum), momentum, source
        )
        return State(
            displacement,
            image + appearance,
            appearance,
            momentum,
            source,
            velocity,
            1.5 * velocity - 0.5 * state.velocity,
            energy,
        )

    @torch.no_grad()
    def intact(self, state: State) -> bool:
        """Whether the path up to ``state`` is one of the exact flow, at least in being finite and
        unfolded.
        """
        return bool(torch.isfinite(state.energy)) and bool(
            (determinant(self.jacobian(state.displacement)) > 0).all()
        )

    def departure(self, state: State) -> Float[Tensor, "*shape d"]:
        """From each voxel at the end of the step after ``state`` back to where it was at its start,
        mm: along the velocity met halfway.
        """
        return -self._travel(state, self._points - 0.5 / self.steps * state.at_half)

    def arrival(self, state: State, points: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d"]:
        """From ``points`` at the start of the step after ``state`` to where they are at its end,
        mm.
        """
        return self._travel(state, points + 0.5 * self._travel(state, points))

    def _travel(self, state: State, points: Tensor) -> Tensor:
        """The way of a step with the velocity at ``points``, mm."""
        return self._sample(state.at_half.movedim(-1, 0), points).movedim(0, -1) / self.steps

    def _sample(self, data: Tensor, points: Tensor) -> Tensor:
        """Of a path that has blown up, H tells; the interpolation must not see it, for the gradient
        of torch's ends the process at a coordinate that is NaN.
        """
        return linear(self.image.with_data(data), points.nan_to_num(0.0, 0.0, 0.0))

    def jacobian(self, displacement: Float[Tensor, "*shape d"]) -> Float[Tensor, "*shape d d"]:
        """I + Du at the voxels, mm per mm, by central differences."""
        slopes = torch.stack(torch.gradient(displacement, dim=list(range(self.grid.ndim))), -1)
        return slopes @ self._voxel_per_mm + torch.eye(
            self.grid.ndim, dtype=slopes.dtype, device=slopes.device
        )

    def _force(self, image: Tensor, momentum: Tensor) -> Tensor:
        """sum over channels of p grad I, ``[d, *shape]`` along x, y, z, by central differences."""
        slopes = torch.gradient(image, dim=list(range(1, image.ndim)))
        return torch.tensordot(
            self._voxel_per_mm.T, torch.stack([(momentum * slope).sum(0) for slope in slopes]), 1
        )

    def _velocity(self, force: Tensor, momentum: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        """v and H."""
        smooth = self._kernel(force)
        energy = 0.5 * (
            self.rho * (force * smooth).sum(0).mean() + (momentum * source).sum(0).mean()
        )
        return -self.rho * smooth.movedim(0, -1), energy
