"""The fast sum of local correlations against its definition: value and gradient, tiles of any size,
masks, channels, patches, weights that change.
"""

from collections.abc import Callable

import pytest
import torch
from steps import noise
from torch import Tensor
from worlds import oblique_grid

from inrreg.similarity.lncc import local_correlation, local_moments
from inrreg.similarity.local import FixedSide, InImages, InLoops, correlation_sum

FLOORS = (torch.tensor(0.01, dtype=torch.float64), torch.tensor(0.02, dtype=torch.float64))
Side = Callable[..., FixedSide]
RADII = {2: (2, 1), 3: (2, 1, 1)}


@pytest.fixture(params=["in loops", "in images"])
def side(request: pytest.FixtureRequest) -> Side:
    """Both ways to compute it."""
    return (
        InLoops
        if request.param == "in loops"
        else lambda values, weight, radii: InImages(values, radii)
    )


def images(ndim: int, batch: int = 1, channels: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """Fixed, moving and a weight with holes that covers a part, ``[b, c, *lattice]`` in double
    precision.
    """
    shape = oblique_grid(ndim).shape if batch == 1 else (6, 7, 5)[:ndim]
    fixed, moving, weight = (
        noise((batch, *shape), seed, channels).transpose(0, 1).contiguous() for seed in (1, 2, 3)
    )
    weight = (weight * (weight > 0.3))[:, :1].contiguous()
    weight[:, :, : shape[0] // 3] = 0
    return fixed, moving, weight


def defined(
    fixed: Tensor,
    moving: Tensor,
    weight: Tensor,
    radii: tuple[int, ...],
    floors: tuple[Tensor, Tensor] = FLOORS,
) -> Tensor:
    return (
        weight
        * local_correlation(
            fixed, moving, weight, radii, local_moments(fixed, weight, radii), floors
        )
    ).sum()


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("batch", [1, 20])
def test_value_and_gradient_are_those_of_the_definition(
    ndim: int, batch: int, device: torch.device, side: Side
) -> None:
    fixed, moving, weight = (tensor.to(device) for tensor in images(ndim, batch))
    floors, moving = (FLOORS[0].to(device), FLOORS[1].to(device)), moving.requires_grad_()
    found = correlation_sum(moving, weight, side(fixed, weight, RADII[ndim]), floors)
    expected = defined(fixed, moving, weight, RADII[ndim], floors)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=0)
    torch.testing.assert_close(
        *(torch.autograd.grad(-3 * value, moving)[0] for value in (found, expected)),
        rtol=0,
        atol=1e-10,
    )


@pytest.mark.parametrize("ndim", [2, 3])
def test_gradient_is_right(ndim: int, side: Side) -> None:
    fixed, moving, weight = (
        tensor[..., 5:12, 4:9] if ndim == 2 else tensor[..., 7:12, 4:8, 2:6]
        for tensor in images(ndim)
    )
    known = side(fixed, weight, RADII[ndim])
    assert torch.autograd.gradcheck(
        lambda m: correlation_sum(m, weight, known, FLOORS), moving.clone().requires_grad_()
    )


def test_gradient_in_flat_windows_is_that_of_the_definition(side: Side) -> None:
    """Where all values of the windows are the same the variance is 0 or less by rounding, and cut
    off.
    """
    fixed, moving, weight = images(2, channels=1)
    moving = torch.full_like(moving, 0.3).requires_grad_()
    pair = [
        correlation_sum(moving, weight, side(fixed, weight, (2, 1)), FLOORS),
        defined(fixed, moving, weight, (2, 1)),
    ]
    torch.testing.assert_close(
        *(torch.autograd.grad(value, moving)[0] for value in pair), rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("batch", [1, 2])
def test_the_fixed_side_follows_a_weight_that_changes(side: Side, batch: int) -> None:
    """Steps of one level: sites leave the image, others come back, most stay; once nothing
    changes.
    """
    fixed, moving, weight = (torch.cat([tensor] * batch) for tensor in images(3))
    known = side(fixed, weight, RADII[3])
    for seed in (0, 1, 1, 2, 3):
        now = weight.clone()
        now[-1, :, 5 + 3 * seed : 8 + 3 * seed, 2:9] = 0
        expected = defined(fixed, moving, now, RADII[3])
        assert float(correlation_sum(moving, now, known, FLOORS)) == pytest.approx(
            float(expected), rel=1e-10
        )


def test_what_has_no_weight_has_no_gradient(side: Side) -> None:
    fixed, moving, weight = images(3)
    (gradient,) = torch.autograd.grad(
        correlation_sum(moving.requires_grad_(), weight, side(fixed, weight, RADII[3]), FLOORS),
        moving,
    )
    nothing = (weight == 0).expand_as(gradient)
    assert bool((gradient[nothing] == 0).all())
    assert bool((gradient[~nothing] != 0).all())
