"""The Hamiltonian system: conservation, order in time, limits of rho, invariances, gradients in
double precision.
"""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds import oblique

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.metamorphosis import (
    EvolvingMaskWeight,
    Gaussian,
    Hamiltonian,
    MaskWeight,
    MultiScale,
    Shooting,
    State,
    UniformWeight,
    ZeroWeight,
    lddmm,
    recomputed,
)
from inrreg.metamorphosis.fit import path_energy
from inrreg.ops.sampling import linear
from inrreg.ops.small_matrices import determinant


def smooth(grid: Grid, seed: int, spread: float = 0.09, channels: int = 1) -> Image:
    """A sum of wide Gaussian blobs that have faded at the border, given in the world, so that it is
    the same on a finer grid.
    """
    generator = torch.Generator().manual_seed(seed)
    points = (grid.points(torch.float64) - torch.tensor(grid.center)) / float(grid.extent.min())
    centers = 0.3 * torch.rand(6, grid.ndim, generator=generator, dtype=torch.float64) - 0.15
    weights = torch.rand(channels, 6, generator=generator, dtype=torch.float64) - 0.3
    bumps = torch.stack(
        [torch.exp(-(points - center).square().sum(-1) / (2 * spread**2)) for center in centers]
    )
    return Image(torch.tensordot(weights, bumps, 1), grid, "smooth")


def plane(fineness: int = 1) -> Grid:
    """A box of 60 x 66 mm, oblique and anisotropic."""
    return Grid.from_spacing(
        (48 * fineness, 44 * fineness), (1.25 / fineness, 1.5 / fineness), (-31.0, 47.0), oblique(2)
    )


def states(
    system: Hamiltonian, grid: Grid, steps: int, strength: float, channels: int = 1
) -> list[State]:
    return list(
        Shooting(system, smooth(grid, 0, channels=channels), steps).trajectory(
            strength * smooth(grid, 1, channels=channels).data
        )
    )


BOTH = Hamiltonian(Gaussian(6.0), UniformWeight(), 0.9995)
STRENGTH = 1000.0
"""Of the momentum: moves by about 3 mm and changes the intensity by a fifth of its range."""


def test_the_problem_is_one_of_motion_and_of_change() -> None:
    last = states(BOTH, plane(), 16, STRENGTH)[-1]
    assert 2 < float(last.displacement.norm(dim=-1).max()) < 8
    assert 0.1 < float(last.appearance.abs().max()) < 1
    assert (
        float(determinant(Shooting(BOTH, smooth(plane(), 0), 1).jacobian(last.displacement)).min())
        > 0.1
    )


def test_the_scheme_is_of_second_order_in_time() -> None:
    """Twice the steps, a quarter of the change that twice the steps make: of the Hamiltonian at the
    end, hence of its drift, and of the map.
    """
    ends = [states(BOTH, plane(2), n, STRENGTH)[-1] for n in (4, 8, 16, 32)]
    for values in ([end.energy for end in ends], [end.displacement for end in ends]):
        changes = [float((a - b).square().mean().sqrt()) for a, b in itertools.pairwise(values)]
        assert all(3.0 < coarse / fine < 5.0 for coarse, fine in itertools.pairwise(changes))


def test_the_drift_of_the_hamiltonian_falls_with_the_grid() -> None:
    """What is left of it when time is fine comes from carrying the map by linear interpolation:
    half of it on half the voxels.
    """
    drifts = [
        float(path[-1].energy / path[0].energy) - 1
        for path in (states(BOTH, plane(f), 8 * f, STRENGTH) for f in (1, 2, 4))
    ]
    assert abs(drifts[0]) < 0.02
    assert all(abs(fine) < 0.6 * abs(coarse) for coarse, fine in itertools.pairwise(drifts))


def test_the_integral_of_the_momentum_is_kept() -> None:
    """dp/dt is a divergence."""
    path = states(BOTH, plane(2), 8, STRENGTH)
    assert float(path[-1].momentum.sum()) == pytest.approx(float(path[0].momentum.sum()), rel=2e-3)


# --- limits ---------------------------------------------------------------------------------------


def test_rho_of_one_is_lddmm() -> None:
    """Whatever the weight; the image is the first one carried along, to the last bit."""
    metamorphosis, pure = (
        states(system, plane(), 6, STRENGTH)
        for system in (Hamiltonian(Gaussian(6.0), UniformWeight(), 1.0), lddmm(Gaussian(6.0)))
    )
    for a, b in zip(metamorphosis, pure, strict=True):
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.displacement, b.displacement)
        assert float(a.appearance.abs().max()) == 0
    assert float(pure[-1].displacement.norm(dim=-1).max()) > 2


def test_rho_of_zero_is_a_change_of_intensity() -> None:
    """I_t = I_0 + t p_0, and nothing moves."""
    path = states(Hamiltonian(Gaussian(6.0), UniformWeight(), 0.0), plane(), 5, 0.4)
    first, momentum = smooth(plane(), 0).data, 0.4 * smooth(plane(), 1).data
    for k, state in enumerate(path):
        torch.testing.assert_close(state.image, first + k / 5 * momentum)
        assert float(state.displacement.abs().max()) < 1e-12
        assert float(state.energy) == pytest.approx(0.5 * float(momentum.square().mean()))


def test_rho_between_approaches_its_limits() -> None:
    """Close to 1 the path is nearly that of LDDMM; the difference falls with 1 - rho."""
    limit = states(lddmm(Gaussian(6.0)), plane(), 6, STRENGTH)[-1].image
    away = [
        float(
            (
                states(Hamiltonian(Gaussian(6.0), UniformWeight(), 1 - e), plane(), 6, STRENGTH)[
                    -1
                ].image
                - limit
            )
            .abs()
            .max()
        )
        for e in (1e-4, 1e-5)
    ]
    assert away[1] < 0.15 * away[0]


def test_outside_the_mask_nothing_is_added() -> None:
    """The weight is the mask of change: 1 has no counterpart."""
    grid = plane()
    left = (grid.points() - torch.tensor(grid.center, dtype=torch.float32))[..., 0] < -8
    system = Hamiltonian(Gaussian(6.0), MaskWeight(Image(left.float()[None], grid, "left")), 0.9995)
    rate = states(system, grid, 4, STRENGTH)[0].source[0]
    assert float(rate[~left].abs().max()) < 1e-4 * float(rate[left].abs().max())
    torch.testing.assert_close(
        rate[left], 0.0005 * STRENGTH * smooth(grid, 1).data[0][left], rtol=1e-3, atol=1e-4
    )


def test_an_evolving_mask_is_that_of_its_time() -> None:
    """The mask wanders from the left to the right half; with rho of 0 the intensity added is the
    integral of its passing.
    """
    grid = plane()
    left = ((grid.points() - torch.tensor(grid.center, dtype=torch.float32))[..., 0] < 0).float()[
        None
    ]
    weight = EvolvingMaskWeight((Image(left, grid, "left"), Image(1 - left, grid, "right")))
    path = list(
        Shooting(Hamiltonian(Gaussian(6.0), weight, 0.0), smooth(grid, 0), 4).trajectory(
            torch.ones(1, *grid.shape, dtype=torch.float64)
        )
    )
    for t, added in ((0.5, 0.375), (1.0, 0.5)):  # of 1 - t on the left: t - t^2 / 2
        appearance = path[round(4 * t)].appearance
        assert float(appearance[left > 0].mean()) == pytest.approx(added, abs=1e-3)
        assert float(appearance[left == 0].mean()) == pytest.approx(t - added, abs=1e-3)


def test_the_velocity_is_the_force_blurred() -> None:
    """v = -rho K (p grad I), in the world frame, by the definition: compared with a sum over all
    pairs of voxels.
    """
    grid = Grid.from_spacing((14, 12), (1.2, 1.6), (3.0, -2.0), oblique(2))
    image, momentum = smooth(grid, 0, 0.3), smooth(grid, 1, 0.3).data
    state = next(
        Shooting(Hamiltonian(Gaussian(3.0), ZeroWeight(), 0.7), image, 1).trajectory(momentum)
    )
    slopes = np.stack(np.gradient(image.data[0].numpy()), -1) @ np.linalg.inv(grid.matrix)
    points, force = (
        grid.points(torch.float64).reshape(-1, 2).numpy(),
        (momentum[0].numpy()[..., None] * slopes).reshape(-1, 2),
    )
    apart = np.square(points[:, None] - points).sum(-1)
    kernel = np.exp(-apart / 18) / (18 * np.pi) * np.prod(grid.spacing)
    np.testing.assert_allclose(
        state.velocity.reshape(-1, 2).numpy(), -0.7 * kernel @ force, rtol=0, atol=1e-6
    )
    assert float(state.energy) == pytest.approx(
        0.35 * float((force * (kernel @ force)).sum(1).mean())
    )


# --- invariances ----------------------------------------------------------------------------------


def test_a_turned_grid_gives_the_turned_path() -> None:
    """The same arrays on grids that differ by a rotation: scalars agree, vectors turn along."""
    flat, turned = (
        Grid.from_spacing((30, 26), (1.2, 1.5), direction=direction)
        for direction in (np.eye(2), oblique(2))
    )
    image, momentum = smooth(flat, 0), STRENGTH * smooth(flat, 1).data
    ends = [
        list(Shooting(BOTH, image.with_data(image.data, grid), 4).trajectory(momentum))[-1]
        for grid in (flat, turned)
    ]
    torch.testing.assert_close(ends[1].image, ends[0].image)
    torch.testing.assert_close(
        ends[1].displacement, ends[0].displacement @ torch.tensor(oblique(2)).T
    )
    torch.testing.assert_close(ends[1].energy, ends[0].energy)


def test_a_channel_twice_is_twice_the_force() -> None:
    """Channels are summed: two equal ones with half the momentum each do what one does."""
    grid = plane()
    image, momentum = smooth(grid, 0), STRENGTH * smooth(grid, 1).data
    one = list(Shooting(lddmm(Gaussian(6.0)), image, 4).trajectory(momentum))[-1]
    two = list(
        Shooting(lddmm(Gaussian(6.0)), image.with_data(image.data.repeat(2, 1, 1)), 4).trajectory(
            0.5 * momentum.repeat(2, 1, 1)
        )
    )[-1]
    torch.testing.assert_close(two.displacement, one.displacement)
    torch.testing.assert_close(two.energy, one.energy)


def test_the_flow_back_undoes_the_flow() -> None:
    grid = plane(2)
    shooting = Shooting(BOTH, smooth(grid, 0), 10)
    path = list(shooting.trajectory(STRENGTH * smooth(grid, 1).data))
    points = grid.points(torch.float64)
    forward = torch.zeros_like(points)
    for state in path[:-1]:
        forward = forward + shooting.arrival(state, points + forward)
    there = points + path[-1].displacement
    error = (
        linear(Image(forward.movedim(-1, 0), grid), there).movedim(0, -1) + path[-1].displacement
    )
    assert float(error.norm(dim=-1).max()) < 0.05  # of 4 mm, on voxels of 0.7 mm


# --- gradient -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(8, 7), (5, 4, 4)], ids=["2-D", "3-D"])
def test_the_gradient_by_the_momentum_is_that_of_differences(
    shape: Sequence[int], generator: torch.Generator
) -> None:
    """In double precision, over the whole cost."""
    d = len(shape)
    grid = Grid.from_spacing(shape, (1.2, 1.5, 2.0)[:d], direction=oblique(d))
    image, target = smooth(grid, 0, 0.3, channels=2), smooth(grid, 2, 0.3, channels=2).data
    shooting = Shooting(Hamiltonian(MultiScale((2.0, 4.0)), UniformWeight(), 0.8), image, 2)

    def cost(momentum: Tensor) -> Tensor:
        path = list(shooting.trajectory(momentum))
        return (path[-1].image - target).square().mean() + 0.1 * path_energy(path)

    start = torch.randn(2, *shape, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(cost, start, eps=1e-7, atol=1e-6)


def test_recomputing_gives_the_same_gradient_from_less_memory(device: torch.device) -> None:
    grid = plane()
    image, momenta, held = smooth(grid, 0).to(device), [], []
    for memory in (None, recomputed):
        shooting = Shooting(BOTH, image, 6) if memory is None else Shooting(BOTH, image, 6, memory)
        momentum = (STRENGTH * smooth(grid, 1).data).to(device).requires_grad_()
        kept: list[int] = []

        def count(tensor: Tensor, kept: list[int] = kept) -> Tensor:
            kept.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            value = list(shooting.trajectory(momentum))[-1].image.square().mean()
        value.backward()
        momenta.append(momentum.grad)
        held.append(sum(kept))
    torch.testing.assert_close(momenta[1], momenta[0], rtol=0, atol=0)
    assert held[1] < 0.4 * held[0]


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rho", [-0.1, 1.1, float("nan")])
def test_rho_beyond_its_limits(rho: float) -> None:
    with pytest.raises(InputError, match="rho lies between 0"):
        Hamiltonian(Gaussian(3.0), UniformWeight(), rho)


def test_systems_that_cannot_be_shot() -> None:
    image = smooth(plane(), 0)
    with pytest.raises(InputError, match="at least one step, got 0"):
        Shooting(BOTH, image, 0)
    with pytest.raises(InputError, match="needs 3 voxels along each axis"):
        Shooting(BOTH, Image(torch.rand(1, 8, 8, 1), Grid.from_spacing((8, 8, 1), 1.0)), 2)
