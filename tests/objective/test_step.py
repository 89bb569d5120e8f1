"""What a step knows: values, places and weights against direct sampling, each computed once."""

import pytest
import torch
from steps import Given, image_of, noise, step_between, still, voxels_of, whole
from torch import Tensor
from worlds import TRANSFORMS, Wave, oblique, oblique_grid

from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.objective.features import Window
from inrreg.objective.samplers import Patches, Sites
from inrreg.objective.step import Level, Samples, Step
from inrreg.ops.sampling import inside, linear
from inrreg.transforms import Affine, BSpline, Translation


def moving_grid(ndim: int) -> Grid:
    """Another place, spacing, orientation and shape than the fixed grid."""
    return Grid.from_spacing(
        (15, 20, 8)[:ndim],
        (1.1, 0.8, 2.2)[:ndim],
        (-30.0, 44.0, 114.0)[:ndim],
        oblique(ndim) @ oblique(ndim),
    )


def level_of(grid: Grid, moving_mask: bool = False) -> Level:
    moving = Wave(grid.ndim).image(moving_grid(grid.ndim), torch.float64)
    mask = image_of(noise(moving.grid.shape, 7), moving.grid) if moving_mask else None
    return Level(
        image_of(noise(grid.shape, 1), grid), moving, image_of(noise(grid.shape, 2), grid), mask
    )


def initial(ndim: int) -> Affine:
    """A turn about the middle with a shift."""
    return Affine.from_matrix(
        torch.tensor(oblique(ndim)),
        torch.tensor([2.0, -1.0, 1.5])[:ndim],
        torch.tensor(oblique_grid(ndim).center),
    ).requires_grad_(False)


@pytest.mark.parametrize("name", ["bspline", "affine", "neural"])
def test_sites_go_through_u_and_then_the_start(
    grid: Grid, generator: torch.Generator, name: str
) -> None:
    u, start = TRANSFORMS[name](grid, generator).requires_grad_(False), initial(grid.ndim)
    step = Step(Samples(level_of(grid), voxels_of(grid)), u, start)
    points = grid.points(torch.float64)
    torch.testing.assert_close(step.mapped[0], start(u(points)), rtol=0, atol=1e-9)
    # adding would show
    assert (
        float(
            (start(u(points)) - (points + u.displacement(points) + start.displacement(points)))
            .norm(dim=-1)
            .max()
        )
        > 0.1
    )
    torch.testing.assert_close(step.displacement[0], u.displacement(points), rtol=0, atol=1e-9)
    # of u alone: the start is nobody's fault
    torch.testing.assert_close(step.jacobian[0], u.jacobian(points), rtol=0, atol=1e-9)


def test_warped_values_are_samples_of_the_moving_image(grid: Grid) -> None:
    level, u = level_of(grid), Translation.by([0.4, -0.7, 0.9][: grid.ndim]).requires_grad_(False)
    step = Step(Samples(level, voxels_of(grid)), u, initial(grid.ndim))
    expected = linear(level.moving, initial(grid.ndim)(u(grid.points(torch.float64))))
    torch.testing.assert_close(step.warped()[0], expected, rtol=0, atol=1e-9)
    feature = Window(-1.0, 2.0)
    torch.testing.assert_close(
        step.warped(feature)[0], linear(feature(level.moving), step.mapped[0]), rtol=0, atol=1e-9
    )


def test_fixed_values_are_the_voxels_or_samples_there(
    grid: Grid, generator: torch.Generator
) -> None:
    level = level_of(grid)
    assert torch.equal(Samples(level, whole(grid)).fixed(), level.fixed.data[None])
    patches = Patches(6, 3).draw(level.fixed_mask, generator)
    values = Samples(level, patches).fixed()
    assert values.shape == (6, 1, *[3] * grid.ndim)
    torch.testing.assert_close(
        values[:, 0], linear(level.fixed, patches.points)[0], rtol=0, atol=1e-6
    )
    coarse = grid.resampled(3.0)
    torch.testing.assert_close(
        Samples(level, Sites(coarse.points()[None], tuple(coarse.spacing), coarse)).fixed()[0],
        linear(level.fixed, coarse.points()),
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize("with_moving_mask", [False, True])
def test_weight_is_fixed_mask_times_moving_mask_times_validity(
    grid: Grid, with_moving_mask: bool
) -> None:
    level, u = (
        level_of(grid, with_moving_mask),
        Translation.by([2.0] * grid.ndim).requires_grad_(False),
    )
    step = Step(Samples(level, voxels_of(grid)), u, None)
    expected = level.fixed_mask.data[0] * inside(level.moving.grid, step.mapped[0])
    if level.moving_mask is not None:
        expected = expected * linear(level.moving_mask, step.mapped[0])[0]
    torch.testing.assert_close(step.weight[0, 0], expected, rtol=0, atol=1e-9)
    assert 0 < int((step.weight == 0).sum()) < step.weight.numel()
    assert not step.all_inside


def test_sites_beyond_the_fixed_image_do_not_count(grid: Grid, generator: torch.Generator) -> None:
    fixed = noise(grid.shape, 1)
    level = step_between(fixed, fixed, grid).level
    patches = Patches(200, 7).draw(level.fixed_mask, generator)
    beyond = inside(grid, patches.points) == 0
    assert bool(beyond.any())
    weight = Samples(level, patches).weight[:, 0]
    assert bool((weight[beyond] == 0).all())
    assert bool((weight[~beyond] > 0.999).all())


def test_weights_of_samples_are_shared_while_all_are_inside(grid: Grid) -> None:
    fixed = noise(grid.shape, 1)
    step = step_between(fixed, fixed, grid)
    assert step.all_inside
    assert step.weight is step.samples.weight


def test_being_outside_matters_only_where_the_mask_counts(grid: Grid) -> None:
    fixed, mask = noise(grid.shape, 1), torch.zeros(grid.shape)
    mask[tuple(slice(3, n - 3) for n in grid.shape)] = 1
    shift = torch.tensor(grid.matrix @ ([2.0] * grid.ndim))
    step = step_between(
        fixed,
        fixed,
        grid,
        mask,
        transform=Given(lambda points: shift.expand_as(points), grid.ndim),
        sites=whole(grid),
    )
    assert float(inside(grid, step.mapped).mean()) < 1
    assert step.all_inside
    assert torch.equal(step.weight, step.samples.weight)


def test_the_weight_has_no_gradient_and_the_values_do(grid: Grid) -> None:
    transform = BSpline.over(grid, 6.0)
    step = Step(
        Samples(level_of(grid, moving_mask=True), voxels_of(grid)), transform, initial(grid.ndim)
    )
    assert not step.weight.requires_grad
    step.warped().sum().backward()
    gradient = transform.coefficients.grad
    assert gradient is not None
    assert float(gradient.abs().max()) > 0


def test_everything_is_computed_once(grid: Grid) -> None:
    calls: list[str] = []

    def counted(image: Image) -> Image:
        calls.append(image.name)
        return image

    def u(points: Tensor) -> Tensor:
        calls.append("u")
        return torch.zeros_like(points)

    level = Level(
        image_of(noise(grid.shape, 1), grid, "fixed"),
        image_of(noise(grid.shape, 2), grid, "moving"),
        image_of(torch.ones(grid.shape), grid),
    )
    samples = Samples(level, voxels_of(grid))
    for _ in range(2):  # two steps over the same samples
        step = Step(samples, Given(u, grid.ndim), None)
        assert step.warped(counted) is step.warped(counted)
        assert step.fixed(counted) is step.fixed(counted)
        assert step.mapped is step.mapped
        assert step.weight is step.weight
    assert sorted(calls) == ["fixed", "moving", "u", "u"]


def test_features_of_both_images_are_kept_apart(grid: Grid) -> None:
    level, feature = level_of(grid), Window(0.0, 2.0)
    assert torch.equal(level.feature("fixed", feature).data, feature(level.fixed).data)
    assert torch.equal(level.feature("moving", feature).data, feature(level.moving).data)
    assert level.feature("fixed", feature) is level.feature("fixed", Window(0.0, 2.0))


def test_grids_are_rendered_alike(grid: Grid, generator: torch.Generator) -> None:
    """A lattice that is a grid takes the fast way of a transform, and finds the same."""
    transform = TRANSFORMS["bspline"](grid, generator).requires_grad_(False)
    by_grid, by_points = (
        Step(Samples(level_of(grid), sites), transform, None)
        for sites in (whole(grid), voxels_of(grid))
    )
    torch.testing.assert_close(
        by_grid.displacement.double(), by_points.displacement, rtol=0, atol=1e-6
    )
    torch.testing.assert_close(by_grid.jacobian.double(), by_points.jacobian, rtol=0, atol=1e-6)


def test_the_identity_sees_the_images_as_they_are(grid: Grid) -> None:
    fixed, moving = noise(grid.shape, 1), noise(grid.shape, 2)
    step = step_between(fixed, moving, grid, transform=still(grid.ndim))
    torch.testing.assert_close(step.warped()[0], moving, rtol=0, atol=1e-9)
    torch.testing.assert_close(step.fixed()[0], fixed, rtol=0, atol=1e-9)
    assert float(step.weight.mean()) == pytest.approx(1)
