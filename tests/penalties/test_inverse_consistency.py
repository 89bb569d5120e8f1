"""Inverse consistency in value and in derivative: zero for maps that undo each other, closed forms,
brute force, gradients, and who may ask.
"""

from collections.abc import Callable

import pytest
import torch
from steps import Given, geometry, voxels_of
from torch import Tensor
from torch.autograd.functional import jacobian
from worlds import Wave

from inrreg.core.errors import TransformError
from inrreg.core.grid import Grid
from inrreg.core.image_pair import ImagePair
from inrreg.objective.samplers import RandomPoints, Sites
from inrreg.objective.step import Term
from inrreg.optimisation import Adam
from inrreg.penalties import GradICON, InverseConsistency
from inrreg.phantoms import blob_pair
from inrreg.similarity import MSE
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.transforms import NeuralModel

each = pytest.mark.parametrize("penalty", [InverseConsistency(), GradICON()], ids=lambda p: p.name)


class Paired(Given):
    """Two given displacements: there, and as counterpart back."""

    def __init__(
        self, there: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor], ndim: int
    ) -> None:
        super().__init__(there, ndim)
        self.back = Given(back, ndim)

    def fitted_inverse(self) -> Given:
        return self.back


def loose(grid: Grid, count: int = 60) -> Sites:
    """Random points, double precision."""
    mask = Wave(grid.ndim).image(grid).with_data(torch.ones(1, *grid.shape))
    sites = RandomPoints(count).draw(mask, torch.Generator().manual_seed(0))
    return Sites(sites.points.double(), sites.spacing)


def gradient_of(ndim: int, seed: int = 0) -> Tensor:
    return 0.3 * torch.randn(
        ndim, ndim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )


def waves(ndim: int, size: float, phase: float = 0.0) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.stack([size * Wave(ndim)(x + 20 * a + phase) for a in range(ndim)], -1)


@each
def test_maps_that_undo_each_other_cost_nothing(grid: Grid, penalty: Term) -> None:
    """An affine map and its inverse; a shear by a wave, which is not linear, and the same shear
    backwards.
    """
    d, center, matrix = grid.ndim, torch.tensor(grid.center), gradient_of(grid.ndim)
    inverse = torch.linalg.inv(torch.eye(d) + matrix) - torch.eye(d)
    affine = Paired(lambda x: (x - center) @ matrix.T, lambda x: (x - center) @ inverse.T, d)

    def shear(sign: float) -> Callable[[Tensor], Tensor]:
        return lambda x: torch.cat([sign * 3 * torch.sin(x[..., 1:2] / 4), 0 * x[..., 1:]], -1)

    for transform in (affine, Paired(shear(1), shear(-1), d)):
        for sites in (loose(grid), voxels_of(grid)):
            assert float(penalty(geometry(transform, sites))) == pytest.approx(0, abs=1e-20)
    assert float(penalty(geometry(Paired(shear(1), shear(1), d), loose(grid)))) > 0.1


def test_linear_maps_without_a_way_back(grid: Grid) -> None:
    """S = identity: both ways are T alone."""
    center, matrix, sites = torch.tensor(grid.center), gradient_of(grid.ndim), loose(grid)
    step = geometry(Paired(lambda x: (x - center) @ matrix.T, torch.zeros_like, grid.ndim), sites)
    assert float(GradICON()(step)) == pytest.approx(float(matrix.square().sum()))
    assert float(InverseConsistency()(step)) == pytest.approx(
        float(((sites.points - center) @ matrix.T).square().sum(-1).mean())
    )


def test_a_translation_is_seen_in_value_and_not_in_derivative(grid: Grid) -> None:
    shift = torch.tensor([1.5, -2.0, 0.5], dtype=torch.float64)[: grid.ndim]
    step = geometry(Paired(torch.zeros_like, lambda x: shift.expand_as(x), grid.ndim), loose(grid))
    assert float(GradICON()(step)) == 0
    assert float(InverseConsistency()(step)) == pytest.approx(float(shift.square().sum()))


def test_both_are_what_brute_force_gives(grid: Grid) -> None:
    """Composed maps differentiated as a whole, a site at a time; each way enters with half the
    weight.
    """
    transform = Paired(waves(grid.ndim, 2.0), waves(grid.ndim, -1.5, phase=3.0), grid.ndim)
    there, back, sites, eye = (
        transform,
        transform.fitted_inverse(),
        loose(grid, 20),
        torch.eye(grid.ndim),
    )
    value, slope = [], []
    for x in sites.points.reshape(-1, grid.ndim):
        for composed in (lambda p: back(there(p)), lambda p: there(back(p))):
            value.append(float((composed(x) - x).square().sum()))
            slope.append(float((jacobian(composed, x) - eye).square().sum()))
    for sums in (value, slope):
        assert abs(sum(sums[0::2]) / sum(sums[1::2]) - 1) > 1e-3  # neither way stands for the other
    assert float(InverseConsistency()(geometry(transform, sites))) == pytest.approx(sum(value) / 40)
    assert float(GradICON()(geometry(transform, sites))) == pytest.approx(sum(slope) / 40)


@each
def test_gradient_is_that_of_central_differences(grid: Grid, penalty: Term) -> None:
    """By the size of either map."""
    sites, sizes = (
        loose(grid, 8),
        torch.tensor([1.2, -0.7], dtype=torch.float64, requires_grad=True),
    )

    def cost(size: Tensor) -> Tensor:
        return penalty(
            geometry(
                Paired(
                    lambda x: size[0] * waves(grid.ndim, 1.0)(x),
                    lambda x: size[1] * waves(grid.ndim, 1.0, 3.0)(x),
                    grid.ndim,
                ),
                sites,
            )
        )

    assert torch.autograd.gradcheck(cost, sizes)
    assert torch.autograd.grad(cost(sizes), sizes)[0].abs().min() > 1e-3


@each
def test_both_decoders_learn_from_it(
    grid: Grid, penalty: Term, device: torch.device, generator: torch.Generator
) -> None:
    transform = NeuralModel("nephi", {"width": 16}).build(grid, generator)
    with torch.no_grad():
        for name, parameter in transform.named_parameters():
            if "output" in name:
                parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    sites = loose(grid, 10)
    value = penalty(
        geometry(transform.to(device), Sites(sites.points.float().to(device), sites.spacing))
    )
    value.backward()
    assert value.detach() > 1e-3
    reached = {
        name for name, p in transform.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert reached == {name for name, _ in transform.named_parameters()}


def test_a_map_that_stands_alone_is_refused() -> None:
    phantom = blob_pair((24, 20), spacing=(2.0, 2.4), shift_mm=4.0, n_blobs=40, seed=1)
    for model in (NeuralModel(), NeuralModel("nephi", lattice_mm=12.0)):
        registration = Registration(
            model,
            (MSE(),),
            (InverseConsistency(),),
            Adam(1e-3),
            (Scale(4, 2),),
            penalty_sampler=RandomPoints(50),
        )
        with pytest.raises(
            TransformError, match="has no map for the way back beside it; fit one that has"
        ):
            registration.run(ImagePair(phantom.fixed, phantom.moving))
