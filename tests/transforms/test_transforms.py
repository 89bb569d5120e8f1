"""Every transform: what it maps, its Jacobian, and its rendering on grids."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from torch import Tensor, nn
from worlds import TRANSFORMS, Wave, between_voxels, oblique, oblique_grid

from inrreg.core.errors import FrameError, TransformError
from inrreg.core.grid import Cube, Grid
from inrreg.core.image import Image
from inrreg.fields import FIELDS
from inrreg.ops.sampling import cubic, linear
from inrreg.transforms import (
    Affine,
    BSpline,
    Composite,
    DenseDisplacement,
    FreeForm,
    LinearModel,
    Neural,
    NeuralModel,
    NumericInverse,
    Render,
    Rigid,
    Transform,
    Translation,
    base,
    composite,
)

LATTICES = ["bspline", "render"]
NO_AUTOGRAD = {"inverse"}


@pytest.fixture(params=TRANSFORMS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def transform(name: str, grid: Grid, generator: torch.Generator) -> Transform:
    return TRANSFORMS[name](grid, generator)


@pytest.fixture
def points(grid: Grid, generator: torch.Generator) -> Tensor:
    return between_voxels(grid, 12, generator)


# --- what holds for every transform ---------------------------------------------------------------


def test_it_moves_points_by_its_displacement(transform: Transform, points: Tensor) -> None:
    u = transform.displacement(points)
    torch.testing.assert_close(transform(points), points + u)
    assert u.norm(dim=-1).max() > 0.1
    assert (torch.linalg.det(transform.jacobian(points)) > 0).all()


def test_a_batch_is_each_point(transform: Transform, points: Tensor) -> None:
    points = points[:6]
    batch = points.reshape(1, 3, 2, -1)
    torch.testing.assert_close(
        transform.displacement(batch),
        torch.stack([transform.displacement(p) for p in points]).reshape(batch.shape),
        rtol=0,
        atol=1e-9,
    )
    torch.testing.assert_close(
        transform.jacobian(batch),
        torch.stack([transform.jacobian(p) for p in points]).reshape(*batch.shape, -1),
        rtol=0,
        atol=1e-8,
    )


def test_jacobian_is_the_central_difference(transform: Transform, points: Tensor) -> None:
    step, columns = 1e-4, []
    for axis in range(transform.ndim):
        offset = step * torch.eye(transform.ndim, dtype=torch.float64)[axis]
        columns.append((transform(points + offset) - transform(points - offset)) / (2 * step))
    # step^2 / 6 of the third derivative, and 1e-10 mm of the inverse's own residual over the step
    torch.testing.assert_close(
        transform.jacobian(points), torch.stack(columns, -1), rtol=0, atol=3e-6
    )


def test_both_at_once_are_each_alone(transform: Transform, points: Tensor) -> None:
    displacement, jacobian = transform.with_jacobian(points)
    torch.testing.assert_close(displacement, transform.displacement(points), rtol=0, atol=1e-9)
    torch.testing.assert_close(jacobian, transform.jacobian(points), rtol=0, atol=1e-9)


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 7), (1, 4, 2), (2, 1, 1), (1, 1), (3, 2, 4)])
def test_a_spline_at_points_inside_beyond_and_at_none(
    shape: tuple[int, ...], generator: torch.Generator
) -> None:
    """Value and slopes in one visit, in the corners of small lattices too, and at points that are
    no numbers.
    """
    spline = BSpline(
        Grid.from_spacing(shape, 3.0, None, oblique_grid(len(shape)).direction)
    ).requires_grad_(False)
    spline.coefficients.copy_(torch.randn(spline.coefficients.shape, generator=generator))
    points = spline.lattice.to_world(
        (torch.rand(300, len(shape), generator=generator, dtype=torch.float64) * 1.6 - 0.3)
        * torch.tensor(shape)
    )
    points[:40] = spline.lattice.to_world(
        torch.rand(40, len(shape), generator=generator, dtype=torch.float64)
        .mul(torch.tensor(shape))
        .round()
    )
    displacement, jacobian = spline.with_jacobian(points)
    torch.testing.assert_close(displacement, spline.displacement(points), rtol=0, atol=1e-12)
    torch.testing.assert_close(jacobian, spline.jacobian(points), rtol=0, atol=1e-12)
    # in units of knots a point is known to some 1e-6
    displacement, jacobian = spline.with_jacobian(points.float())
    torch.testing.assert_close(displacement, spline.displacement(points).float(), rtol=0, atol=3e-5)
    points[3, 0] = torch.nan
    assert spline.with_jacobian(points)[0][3].isnan().any()
    assert not spline.with_jacobian(points)[0][4:].isnan().any()


@pytest.mark.parametrize("name", [n for n in TRANSFORMS if n not in NO_AUTOGRAD])
def test_jacobian_is_autograds(transform: Transform, points: Tensor) -> None:
    leaf = points.clone().requires_grad_()
    moved = transform(leaf)
    rows = [
        torch.autograd.grad(moved[:, i].sum(), leaf, retain_graph=True)[0]
        for i in range(transform.ndim)
    ]
    torch.testing.assert_close(transform.jacobian(points), torch.stack(rows, -2), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", [n for n in TRANSFORMS if n not in NO_AUTOGRAD])
def test_displacement_and_jacobian_are_differentiable_to_the_parameters(
    transform: Transform, points: Tensor
) -> None:
    parameters = dict(transform.named_parameters())
    by_displacement = torch.autograd.grad(
        transform.displacement(points).square().sum(), list(parameters.values())
    )
    assert {
        key
        for key, gradient in zip(parameters, by_displacement, strict=True)
        if not gradient.abs().sum() > 0
    } == set()
    jacobian = transform.jacobian(points)
    assert jacobian.requires_grad == (not isinstance(transform, Translation))
    if jacobian.requires_grad:
        by_jacobian = torch.autograd.grad(
            (jacobian - 1.0).square().sum(), list(parameters.values()), allow_unused=True
        )
        assert {
            key
            for key, gradient in zip(parameters, by_jacobian, strict=True)
            if gradient is None or not gradient.abs().sum() > 0
        } <= {key for key in parameters if key.endswith(("shift", "output.bias"))}


def loosen(transform: Transform) -> None:
    """Ask an inverse for what single precision can hold."""
    if isinstance(transform, NumericInverse):
        transform.tolerance_mm = 2e-3  # it solves to a fiftieth of this


def renderings(grid: Grid) -> dict[str, Grid]:
    return {
        "its own grid": grid,
        "a coarser aligned grid": grid.resampled(3.3),
        "an aligned grid beyond the borders": (
            grid.cropped([-6] * grid.ndim, [n + 6 for n in grid.shape]).resampled(2.9)
        ),
        "other axes": Grid.from_spacing(
            (6, 5, 4)[: grid.ndim],
            (1.7, 2.1, 3.9)[: grid.ndim],
            grid.center - 4,
            oblique(grid.ndim).T,
        ),
    }


@pytest.mark.parametrize("where", renderings(oblique_grid(3)))
def test_rendering_on_a_grid_is_evaluation_at_its_points(
    transform: Transform, grid: Grid, where: str
) -> None:
    target = renderings(grid)[where]
    if isinstance(transform, DenseDisplacement) and transform.interpolation == "linear":
        # off its kinks, where the Jacobian jumps
        target = Grid.from_spacing(
            target.shape, target.spacing, target.origin + 0.013, target.direction
        )
    x = target.points()
    loosen(transform)
    u, jacobian = transform.displacement_on(target), transform.jacobian_on(target)
    assert u.shape == (*target.shape, grid.ndim)
    assert jacobian.shape == (*target.shape, grid.ndim, grid.ndim)
    # points in single precision are 1e-5 mm off, and fields bend by less than 1 per mm
    torch.testing.assert_close(u.double(), transform.displacement(x.double()), rtol=0, atol=1e-4)
    torch.testing.assert_close(jacobian.double(), transform.jacobian(x.double()), rtol=0, atol=1e-4)


def test_rendering_in_chunks_does_not_show(
    transform: Transform, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = renderings(grid)["other axes"]
    loosen(transform)
    u, jacobian = transform.displacement_on(target), transform.jacobian_on(target)
    for module in (base, composite):
        monkeypatch.setattr(module, "CHUNK", 50)
    torch.testing.assert_close(transform.displacement_on(target), u, rtol=0, atol=1e-5)
    torch.testing.assert_close(transform.jacobian_on(target), jacobian, rtol=0, atol=1e-5)


def test_single_precision_far_from_the_world_origin(name: str, device: torch.device) -> None:
    far = Grid.from_spacing((17, 14, 9), (0.7, 0.9, 2.5), (1000.0, -1000.0, 1000.0), oblique(3))
    transform = TRANSFORMS[name](far, torch.Generator().manual_seed(0))
    x = between_voxels(far, 50, torch.Generator().manual_seed(1))
    expected = transform.displacement(x)
    loosen(transform)
    found = transform.to(device).displacement(x.float().to(device)).double().cpu()
    # a point near 1000 mm is rounded by 3e-5 mm and fields change by less than 1 mm per mm; the
    # composite and the inverse round three times
    torch.testing.assert_close(found, expected, rtol=0, atol=6e-4 if name == "inverse" else 2e-4)


def test_devices_agree(transform: Transform, points: Tensor, device: torch.device) -> None:
    expected = transform.displacement(points)
    moved = transform.to(device)
    assert moved.device.type == device.type
    torch.testing.assert_close(
        moved.displacement(points.to(device)).cpu(), expected, rtol=0, atol=1e-8
    )


@pytest.mark.parametrize("name", [n for n in TRANSFORMS if n not in LATTICES])
def test_what_has_no_lattice_cannot_be_refined(transform: Transform) -> None:
    with pytest.raises(
        TransformError, match=rf"{type(transform).__name__} has no lattice to refine to 4.0 mm"
    ):
        transform.refine(4.0)


# --- linear ---------------------------------------------------------------------------------------


def test_translation_by_mm() -> None:
    torch.testing.assert_close(
        Translation.by([1.0, -2.0, 3.0])(torch.tensor([[10.0, 20.0, 30.0]])),
        torch.tensor([[11.0, 18.0, 33.0]]),
    )


def test_rigid_is_scipys_rotation_about_the_centre(grid_3d: Grid, points: Tensor) -> None:
    points = points if points.shape[-1] == 3 else torch.cat([points, points[:, :1]], -1)
    rigid = TRANSFORMS["rigid"](grid_3d, torch.Generator().manual_seed(0))
    rotation = Rotation.from_rotvec(rigid.rotation_vector.detach().numpy() / rigid.radius)
    expected = (
        rotation.apply(points.numpy() - grid_3d.center)
        + grid_3d.center
        + rigid.shift.detach().numpy()
    )
    np.testing.assert_allclose(rigid(points).detach(), expected, atol=1e-9)


def test_rigid_in_2d_turns_from_x_to_y(grid_2d: Grid) -> None:
    rigid = Rigid(grid_2d.center, radius=2.0)
    rigid.rotation_vector.data.fill_(2.0 * np.pi / 2)
    quarter = rigid(torch.tensor(grid_2d.center) + torch.tensor([3.0, 0.0]))
    torch.testing.assert_close(
        quarter, torch.tensor(grid_2d.center) + torch.tensor([0.0, 3.0], dtype=torch.float64)
    )


@pytest.mark.parametrize(
    ("kind", "parameter"),
    [
        ("rigid", "rotation_vector"),
        ("affine", "gradient"),
        ("affine", "shift"),
        ("translation", "shift"),
    ],
)
def test_one_mm_of_a_parameter_is_one_mm_of_motion_at_the_radius(
    kind: str, parameter: str, grid_3d: Grid
) -> None:
    transform = LinearModel(kind).build(grid_3d, torch.Generator())
    value = transform.get_parameter(parameter).data
    value.view(-1)[0] = 1e-3
    sphere = torch.nn.functional.normalize(
        torch.randn(4000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
        dim=-1,
    )
    motion = transform.displacement(torch.tensor(grid_3d.center) + transform.radius * sphere).norm(
        dim=-1
    )
    # 4000 directions pass the fastest one by 2 degrees
    assert motion.max().item() == pytest.approx(1e-3, rel=1e-2)


def test_affine_from_its_homogeneous_matrix_and_back() -> None:
    matrix = np.array(
        [[1.1, 0.2, -0.1, 12.0], [-0.15, 0.9, 0.05, -7.0], [0.0, 0.3, 1.2, 3.0], [0, 0, 0, 1]]
    )
    affine = Affine.from_homogeneous(matrix)
    x = torch.tensor([[10.0, -20.0, 30.0]], dtype=torch.float64)
    np.testing.assert_allclose(
        affine(x).detach()[0], matrix[:3, :3] @ x[0].numpy() + matrix[:3, 3], atol=1e-10
    )
    np.testing.assert_allclose(affine.homogeneous(), matrix, atol=1e-12)


@pytest.mark.parametrize("name", ["translation", "rigid", "affine"])
def test_homogeneous_is_the_same_map(transform: Transform, points: Tensor) -> None:
    np.testing.assert_allclose(
        Affine.from_homogeneous(transform.homogeneous())(points).detach(),
        transform(points).detach(),
        atol=1e-9,
    )


@pytest.mark.parametrize("radius", [1.0, 37.0])
def test_affine_from_matrix_is_the_same_at_any_radius(radius: float, points: Tensor) -> None:
    d = points.shape[-1]
    matrix, shift, center = (
        np.eye(d) + 0.1 * np.arange(d * d).reshape(d, d),
        np.arange(d) + 2.0,
        np.arange(d) * 5.0,
    )
    affine = Affine.from_matrix(matrix, shift, center, radius)
    np.testing.assert_allclose(
        affine(points).detach(), (points.numpy() - center) @ matrix.T + center + shift, atol=1e-9
    )


def test_linear_model_turns_about_the_grid_or_a_given_centre(grid: Grid) -> None:
    about_grid = LinearModel("rigid").build(grid, torch.Generator())
    np.testing.assert_allclose(about_grid.center, grid.center)
    assert about_grid.radius == pytest.approx(np.linalg.norm(grid.extent) / 4)
    np.testing.assert_allclose(
        LinearModel("rigid").build(grid, torch.Generator(), center=[7.0] * grid.ndim).center, 7.0
    )


# --- lattices -------------------------------------------------------------------------------------


def linear_field(points: Tensor) -> Tensor:
    """A field that cubic and linear interpolation meet exactly."""
    d = points.shape[-1]
    slope = torch.tensor(
        [[0.05, -0.1, 0.02], [0.08, 0.03, -0.06], [-0.04, 0.07, 0.09]], dtype=points.dtype
    )[:d, :d]
    return (points - points.new_tensor([-30.0, 50.0, 120.0][:d])) @ slope.T


def test_bspline_reproduces_linear_fields_and_their_slope(grid: Grid, points: Tensor) -> None:
    spline = BSpline(grid.covering(4.0, margin=3)).double()
    spline.coefficients.data = linear_field(spline.lattice.points(torch.float64)).movedim(-1, 0)
    inner = between_voxels(grid, 20, torch.Generator().manual_seed(0))
    torch.testing.assert_close(spline.displacement(inner), linear_field(inner), rtol=0, atol=1e-10)
    slope = linear_field(points[0] + torch.eye(grid.ndim, dtype=torch.float64)) - linear_field(
        points[0]
    )
    torch.testing.assert_close(
        spline.jacobian(inner) - torch.eye(grid.ndim),
        slope.T.expand(20, -1, -1),
        rtol=0,
        atol=1e-10,
    )


def test_bspline_holds_its_border_value_beyond_the_lattice(
    grid: Grid, generator: torch.Generator
) -> None:
    spline = TRANSFORMS["bspline"](grid, generator)
    edge = torch.tensor(spline.lattice.shape, dtype=torch.float64) - 1
    far, border = spline.lattice.to_world(edge + 5.0), spline.lattice.to_world(edge)
    torch.testing.assert_close(
        spline.displacement(far), spline.displacement(border), rtol=0, atol=1e-9
    )
    torch.testing.assert_close(spline.jacobian(far), torch.eye(grid.ndim, dtype=torch.float64))


@settings(max_examples=16)
@given(divisor=st.sampled_from([1, 2, 3, 4]), seed=st.integers(0, 99), ndim=st.sampled_from([2, 3]))
def test_refining_to_a_fraction_of_the_spacing_does_not_change_the_map(
    divisor: int, seed: int, ndim: int
) -> None:
    grid, generator = oblique_grid(ndim), torch.Generator().manual_seed(seed)
    spline = TRANSFORMS["bspline"](grid, generator)
    knots = spline.lattice.n_voxels
    x = between_voxels(grid.cropped([-9] * ndim, [n + 9 for n in grid.shape]), 30, generator)
    before, jacobian = spline.displacement(x), spline.jacobian(x)
    spline.refine(6.0 / divisor)
    assert spline.lattice.n_voxels >= knots * divisor / 2
    torch.testing.assert_close(spline.displacement(x), before, rtol=0, atol=1e-9)
    torch.testing.assert_close(spline.jacobian(x), jacobian, rtol=0, atol=1e-9)


def test_refining_to_other_spacings_changes_the_map_less_the_finer_they_are(
    grid: Grid, generator: torch.Generator
) -> None:
    x, errors = between_voxels(grid, 200, torch.Generator().manual_seed(1)), []
    for spacing in (4.1, 2.05):
        spline = TRANSFORMS["bspline"](grid, torch.Generator().manual_seed(0))
        before = spline.displacement(x)
        spline.refine(spacing)
        errors.append((spline.displacement(x) - before).abs().max().item())
    # jumps of the third derivative: between third and fourth order
    assert errors[1] < errors[0] / 4
    assert errors[0] < 0.1  # of 1 mm coefficients


def test_render_passes_through_the_field_at_its_knots(
    grid: Grid, generator: torch.Generator
) -> None:
    render = TRANSFORMS["render"](grid, generator)
    x = render.lattice.points()
    torch.testing.assert_close(
        render.displacement(x), render.inner.displacement(x), rtol=0, atol=1e-5
    )
    between = between_voxels(grid, 30, generator)
    torch.testing.assert_close(
        render.displacement(between), render.inner.displacement(between), rtol=0, atol=0.1
    )
    assert (render.displacement(between) - render.inner.displacement(between)).abs().max() > 1e-6


def test_render_refined_comes_nearer_to_the_field(grid: Grid, generator: torch.Generator) -> None:
    render = TRANSFORMS["render"](grid, generator)
    between = between_voxels(grid, 30, generator)

    def distance() -> float:
        return (
            (render.displacement(between) - render.inner.displacement(between)).abs().max().item()
        )

    coarse = distance()
    render.refine(2.5)
    assert distance() < coarse / 8  # fourth order, less what the mirrored border keeps


# --- dense fields ---------------------------------------------------------------------------------


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_a_dense_field_is_its_vectors_interpolated(
    grid: Grid, points: Tensor, generator: torch.Generator, interpolation: str
) -> None:
    vectors = torch.rand(*grid.shape, grid.ndim, generator=generator, dtype=torch.float64)
    field = DenseDisplacement(vectors, grid, interpolation)
    torch.testing.assert_close(
        field.displacement(grid.points(torch.float64)), vectors, rtol=0, atol=1e-9
    )
    for axis in range(grid.ndim):
        component = Image(vectors[..., axis][None], grid)
        torch.testing.assert_close(
            field.displacement(points)[:, axis],
            {"linear": linear, "cubic": cubic}[interpolation](component, points)[0],
            rtol=0,
            atol=1e-12,
        )


def test_a_dense_field_keeps_its_own_vectors(grid: Grid) -> None:
    vectors = torch.zeros(*grid.shape, grid.ndim)
    field = DenseDisplacement(vectors, grid)
    vectors += 1.0
    assert field.vectors.abs().max() == 0


def test_a_dense_field_of_the_wrong_shape_is_refused(grid_3d: Grid) -> None:
    with pytest.raises(
        FrameError,
        match=(
            r"a displacement field on Grid\(17 x 14 x 9.*has shape \(17, 14, 9, 3\), got \(3, 17,"
            r" 14, 9\)"
        ),
    ):
        DenseDisplacement(torch.zeros(3, 17, 14, 9), grid_3d)


# --- networks -------------------------------------------------------------------------------------


def test_neural_sees_cube_coordinates_and_answers_in_scaled_mm(grid: Grid, points: Tensor) -> None:
    cube = Cube.around(grid)
    network = nn.Linear(grid.ndim, grid.ndim, bias=False).double()
    neural = Neural(network, cube, scale_mm=7.0)
    torch.testing.assert_close(
        neural.displacement(points), 7.0 * cube.to_unit(points) @ network.weight.T
    )
    assert neural.displacement(points.float()).dtype == torch.float32


def test_a_model_draws_its_weights_from_the_generator(grid: Grid) -> None:
    states = [
        NeuralModel(options={"width": 8})
        .build(grid, torch.Generator().manual_seed(seed))
        .state_dict()
        for seed in (3, 3, 4)
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])


@pytest.mark.parametrize(
    "model",
    [
        FreeForm(5.0),
        LinearModel("translation"),
        LinearModel("rigid"),
        LinearModel("affine"),
        NeuralModel(),
        NeuralModel(lattice_mm=4.0),
    ],
    ids=repr,
)
def test_every_model_starts_as_the_identity(
    model: FreeForm | LinearModel | NeuralModel,
    grid: Grid,
    points: Tensor,
    generator: torch.Generator,
) -> None:
    transform = model.build(grid, generator)
    assert transform.ndim == grid.ndim
    torch.testing.assert_close(
        transform.displacement(points), torch.zeros_like(points), rtol=0, atol=0
    )
    assert any(p.requires_grad for p in transform.parameters())


def test_lattices_of_models_reach_past_the_grid(grid: Grid, generator: torch.Generator) -> None:
    for transform in (
        FreeForm(5.0).build(grid, generator),
        NeuralModel(lattice_mm=5.0).build(grid, generator),
    ):
        voxels = transform.lattice.to_voxel(grid.points(torch.float64)).reshape(-1, grid.ndim)
        np.testing.assert_allclose(transform.lattice.spacing, 5.0)
        # one knot more than needed, so that no voxel sees the mirrored border
        assert (voxels >= 1 - 1e-6).all()
        assert (voxels <= torch.tensor(transform.lattice.shape) - 2 + 1e-6).all()


def test_unknown_models_are_refused_with_the_known_ones(
    grid: Grid, generator: torch.Generator
) -> None:
    with pytest.raises(
        TransformError,
        match=(
            "no linear transform is called 'similarity'; choose one of translation, rigid, affine"
        ),
    ):
        LinearModel("similarity").build(grid, generator)
    with pytest.raises(
        TransformError, match=f"no field is called 'perceptron'; choose one of {next(iter(FIELDS))}"
    ):
        NeuralModel("perceptron").build(grid, generator)


def test_models_are_values() -> None:
    assert replace(FreeForm(8.0), spacing_mm=4.0) == FreeForm(4.0)
    assert json.dumps(NeuralModel().__dict__)


# --- composites -----------------------------------------------------------------------------------


def test_a_stage_is_composed_before_the_start_it_began_from(points: Tensor) -> None:
    d = points.shape[-1]
    initial, stage = (
        Affine.from_matrix(2.0 * np.eye(d), np.zeros(d), np.zeros(d)),
        Translation.by(np.ones(d)),
    )
    # x -> initial(x + u(x)), never initial(x) + u(x)
    torch.testing.assert_close(Composite([stage, initial])(points), 2.0 * (points + 1.0))


def test_composites_are_flat_and_associative(
    grid: Grid, points: Tensor, generator: torch.Generator
) -> None:
    a, b, c = (TRANSFORMS[name](grid, generator) for name in ("bspline", "rigid", "neural"))
    nested, other = Composite([Composite([a, b]), c]), Composite([a, Composite([b, c])])
    assert nested.chain == [a, b, c] == other.chain
    torch.testing.assert_close(nested(points), c(b(a(points))), rtol=0, atol=1e-10)


def test_the_chain_rule(grid: Grid, points: Tensor, generator: torch.Generator) -> None:
    a, b = TRANSFORMS["bspline"](grid, generator), TRANSFORMS["neural"](grid, generator)
    torch.testing.assert_close(
        Composite([a, b]).jacobian(points),
        b.jacobian(a(points)) @ a.jacobian(points),
        rtol=0,
        atol=1e-10,
    )


def test_composites_of_nothing_or_of_two_dimensions_are_refused() -> None:
    with pytest.raises(TransformError, match="one stage or more"):
        Composite([])
    with pytest.raises(
        TransformError,
        match=r"all of one dimension; got \['Translation in 2-D', 'Translation in 3-D'\]",
    ):
        Composite([Translation.by([0.0, 0.0]), Translation.by([0.0, 0.0, 0.0])])


def test_a_rendered_network_is_differentiable_to_its_weights(
    grid: Grid, generator: torch.Generator
) -> None:
    render = NeuralModel(options={"width": 8}, lattice_mm=6.0).build(grid, generator)
    assert isinstance(render, Render)
    (
        render.displacement_on(grid) - Wave(grid.ndim)(grid.points())[..., None]
    ).square().mean().backward()
    assert render.get_parameter("inner.network.output.weight").grad.abs().max() > 0
