"""Registration: known motion is found by every combination, and everything that a run promises
besides.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from torch import Tensor
from worlds import oblique, signed_permutations

from inrreg.core.errors import InputError, TransformError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, Points
from inrreg.core.image_pair import ImagePair
from inrreg.objective.samplers import Patches, RandomPoints, WholeGrid
from inrreg.objective.step import Step, Term
from inrreg.optimisation import LBFGS, Adam, NeverStopping, Outcome
from inrreg.optimisation.stage_result import Record, StageResult
from inrreg.penalties import Bending, Diffusion, Folding
from inrreg.phantoms import PhantomPair, blob_pair
from inrreg.similarity import LNCC, MSE, NCC
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.stages.protocol import Stage
from inrreg.transforms import (
    Affine,
    BSpline,
    Composite,
    FreeForm,
    LinearModel,
    NeuralModel,
    Transform,
    identity,
)
from inrreg.transforms.warp import warp

SIREN = {"width": 32, "depth": 2, "omega": 5.0, "omega_hidden": 10.0}
CORRELATION = LNCC(20.0, flatness=0.02)
SCALES = (Scale(8, 50), Scale(4, 30))
FREE_FORM = Registration(
    FreeForm(24.0),
    (CORRELATION,),
    (Bending(0.5),),
    Adam(1.0),
    (Scale(8, 30), Scale(4, 30, 12.0)),
    mask_margin_mm=8.0,
)
WAYS = {
    "free form, LNCC": FREE_FORM,
    "free form, MSE": replace(FREE_FORM, similarities=(MSE(),), penalties=(Bending(0.1),)),
    "free form, MSE, L-BFGS": replace(
        FREE_FORM,
        similarities=(MSE(),),
        penalties=(Bending(0.1),),
        optimiser=LBFGS(),
        scales=(Scale(8, 12), Scale(4, 8, 12.0)),
    ),
    "network on a lattice, LNCC": replace(
        FREE_FORM,
        transform=NeuralModel(options=SIREN, lattice_mm=12.0),
        optimiser=Adam(2e-3),
        scales=SCALES,
    ),
    "network at patches, LNCC": replace(
        FREE_FORM,
        transform=NeuralModel(options=SIREN),
        penalties=(Diffusion(0.02), Folding()),
        optimiser=Adam(3e-3, stopping=NeverStopping()),
        sampler=Patches(20, 7),
        penalty_sampler=RandomPoints(200),
        scales=(Scale(8, 30), Scale(5, 40)),
    ),
}
QUICK = replace(FREE_FORM, similarities=(MSE(),), penalties=(), scales=(Scale(8, 12),))
"""A few steps: enough to see what moves."""


@pytest.fixture(
    scope="module",
    params=[((32, 28, 24), (3.0, 3.5, 4.0), 200), ((48, 44), (2.0, 2.4), 60)],
    ids=["3-D", "2-D"],
)
def phantom(request: pytest.FixtureRequest) -> PhantomPair:
    """Blobs on oblique, anisotropic grids of which the moving one is turned against the fixed
    one.
    """
    shape, spacing, n_blobs = request.param
    return blob_pair(shape, spacing=spacing, shift_mm=5.0, n_blobs=n_blobs, seed=1)


@pytest.fixture(scope="module")
def flat() -> PhantomPair:
    return blob_pair((48, 44), spacing=(2.0, 2.4), shift_mm=5.0, n_blobs=60, seed=1)


def pair_of(phantom: PhantomPair) -> ImagePair:
    return ImagePair(phantom.fixed, phantom.moving, phantom.fixed_mask, phantom.moving_mask)


def in_mask(phantom: PhantomPair) -> Tensor:
    return phantom.fixed.grid.points(torch.float64)[phantom.fixed_mask.data[0] > 0]


def remaining(transform: Transform, truth: Callable[[Tensor], Tensor], points: Tensor) -> float:
    """Mean distance from the truth, over that of the identity."""
    with torch.no_grad():
        target = truth(points)
        return float(
            (transform(points) - target).norm(dim=-1).mean() / (points - target).norm(dim=-1).mean()
        )


def moved(image: Image, matrix: np.ndarray) -> Image:
    """The image with another (d+1) x (d+1) map applied to its world."""
    return image.with_data(image.data, Grid(image.grid.shape, matrix @ image.grid.affine))


# --- recovery -------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_known_motion_is_recovered(phantom: PhantomPair, way: str) -> None:
    result = WAYS[way].run(pair_of(phantom))
    assert result.outcome.usable
    # measured: 0.12 to 0.19
    assert remaining(result.transform, phantom.truth, in_mask(phantom)) < 0.25


@pytest.mark.parametrize("kind", ["rigid", "affine"])
def test_random_points_recover_a_linear_map(phantom: PhantomPair, kind: str) -> None:
    grid, d = phantom.fixed.grid, phantom.fixed.grid.ndim
    truth = LinearModel(kind).build(grid, torch.Generator()).requires_grad_(False)
    for name, parameter in truth.named_parameters():
        parameter.copy_(
            torch.linspace(-5, 6, parameter.numel()).reshape(parameter.shape)
            if name != "shift"
            else torch.tensor([4.0, -3.0, 2.0])[:d]
        )
    moving = warp(phantom.fixed, truth.inverse(), phantom.moving.grid, method="cubic")
    by_points = Registration(
        LinearModel(kind), (NCC(),), (), Adam(1.0), (Scale(8, 40), Scale(4, 40)), RandomPoints(1500)
    )
    result = by_points.run(ImagePair(phantom.fixed, moving))
    # noise of the points and of the steps
    assert remaining(result.transform, truth, grid.points(torch.float64).reshape(-1, d)) < 0.05


def test_a_moving_image_of_another_spacing_and_shape_will_do(phantom: PhantomPair) -> None:
    center, d = phantom.moving.grid.center, phantom.moving.grid.ndim
    shape, spacing = (
        (70, 25, 27)[:d] if d == 3 else (40, 61),
        ((1.5, 4.2, 3.6)[:d] if d == 3 else (2.6, 1.7)),
    )
    direction = oblique(d) @ np.diag([-1.0, *[1.0] * (d - 1)])
    other = Grid.from_spacing(
        shape, spacing, center - direction * spacing @ ((np.array(shape) - 1) / 2), direction
    )
    result = FREE_FORM.run(
        ImagePair(
            phantom.fixed,
            warp(phantom.moving, identity(d), other, method="cubic"),
            phantom.fixed_mask,
        )
    )
    assert remaining(result.transform, phantom.truth, in_mask(phantom)) < 0.25


def test_the_order_of_the_moving_axes_does_not_matter(phantom: PhantomPair) -> None:
    d = phantom.moving.grid.ndim
    turn = signed_permutations(d)[-2]  # axes exchanged and flipped
    order, flips = (
        [int(np.abs(turn[:, a]).argmax()) for a in range(d)],
        [a for a in range(d) if turn[:, a].sum() < 0],
    )
    array = phantom.moving.data[0].permute(order).flip(flips)
    step = np.eye(d + 1)
    step[:d, :d] = turn
    step[:d, d] = [(n - 1) * (turn[b].sum() < 0) for b, n in enumerate(phantom.moving.grid.shape)]
    turned = Image(
        array[None].contiguous(),
        Grid(tuple(array.shape), phantom.moving.grid.affine @ step),
        "turned",
    )
    points = in_mask(phantom)
    torch.testing.assert_close(turned.grid.center, phantom.moving.grid.center)
    one, other = (
        QUICK.run(ImagePair(phantom.fixed, moving, phantom.fixed_mask)).transform(points)
        for moving in (phantom.moving, turned)
    )
    # single precision, twelve steps of up to 1 mm
    torch.testing.assert_close(one, other, rtol=0, atol=0.01)


def test_far_from_the_worlds_origin_it_is_as_good(phantom: PhantomPair) -> None:
    d = phantom.fixed.grid.ndim
    away = np.eye(d + 1)
    away[:d, d] = [1200.0, -900.0, 700.0][:d]
    pair = ImagePair(
        moved(phantom.fixed, away),
        moved(phantom.moving, away),
        phantom.fixed_mask.with_data(phantom.fixed_mask.data, moved(phantom.fixed, away).grid),
    )
    here, there = in_mask(phantom), in_mask(phantom) + torch.tensor(away[:d, d])
    # single precision at 1200 mm is 1e-4 mm a step
    torch.testing.assert_close(
        QUICK.run(pair).transform(there) - there,
        QUICK.run(pair_of(phantom)).transform(here) - here,
        rtol=0,
        atol=0.05,
    )


# --- composition ----------------------------------------------------------------------------------


def turned_away(phantom: PhantomPair) -> tuple[ImagePair, Affine]:
    """The pair with the moving world turned by a large angle, and that turn."""
    d = phantom.fixed.grid.ndim
    turn = Affine.from_matrix(
        oblique(d), np.array([30.0, -20.0, 10.0])[:d], phantom.fixed.grid.center
    ).requires_grad_(False)
    return (
        ImagePair(
            phantom.fixed, moved(phantom.moving, turn.homogeneous().numpy()), phantom.fixed_mask
        ),
        turn,
    )


def test_the_start_is_composed_with_what_is_found(phantom: PhantomPair) -> None:
    pair, turn = turned_away(phantom)
    plain, started = QUICK.run(pair_of(phantom)).transform, QUICK.run(pair, turn).transform
    points = in_mask(phantom)
    # x -> turn(x + u(x)) with the same u; single precision
    torch.testing.assert_close(started(points), turn(plain(points)), rtol=0, atol=0.02)
    added = points + (plain(points) - points) + (turn(points) - points)
    assert float((started(points) - added).norm(dim=-1).mean()) > 0.5
    assert isinstance(started, Composite)
    assert isinstance(started.chain[0], BSpline)


def test_motion_is_recovered_from_a_turned_start(phantom: PhantomPair) -> None:
    pair, turn = turned_away(phantom)
    result = FREE_FORM.run(pair, turn)
    points = in_mask(phantom)
    error = (result.transform(points) - turn(phantom.truth(points))).norm(dim=-1).mean()
    assert float(error) < 0.25 * float((phantom.truth(points) - points).norm(dim=-1).mean())


def test_the_start_is_left_as_it_was(flat: PhantomPair) -> None:
    pair, turn = turned_away(flat)
    before = {name: value.clone() for name, value in turn.state_dict().items()}
    result = QUICK.run(pair, turn)
    assert all(torch.equal(value, before[name]) for name, value in turn.state_dict().items())
    assert not any(p.requires_grad for p in result.transform.parameters())


def test_a_run_fits_a_copy_of_a_ready_transform(flat: PhantomPair) -> None:
    """So that the same stage gives the same result again, and goes on from where it is told to."""
    ready = BSpline.over(flat.fixed.grid, 24.0)
    stage = replace(QUICK, transform=ready)
    first, again = stage.run(pair_of(flat)).transform, stage.run(pair_of(flat)).transform
    assert not ready.coefficients.any()
    assert ready.coefficients.requires_grad
    assert torch.equal(first.state_dict()["coefficients"], again.state_dict()["coefficients"])
    further = replace(QUICK, transform=first).run(pair_of(flat)).transform
    after_one = remaining(first, flat.truth, in_mask(flat))
    assert remaining(further, flat.truth, in_mask(flat)) < after_one < 1


# --- the same again -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "way", ["free form, LNCC", "network on a lattice, LNCC", "network at patches, LNCC"]
)
def test_the_same_seed_gives_the_same_bits(flat: PhantomPair, way: str) -> None:
    stage = WAYS[way].with_scales(Scale(8, 5), Scale(4, 3))
    first, again, other = (
        stage.run(pair_of(flat), seed=seed).transform.displacement_on(flat.fixed.grid)
        for seed in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert torch.equal(first, other) == way.startswith("free form")  # which draws no random numbers


def test_global_random_numbers_are_left_alone(flat: PhantomPair) -> None:
    before = torch.get_rng_state()
    replace(FREE_FORM, sampler=Patches(10, 7), scales=(Scale(8, 2),)).run(pair_of(flat))
    assert torch.equal(torch.get_rng_state(), before)


# --- masks ----------------------------------------------------------------------------------------

NATIVE = replace(FREE_FORM, scales=(Scale(1, 6),), mask_margin_mm=7.9)
"""At the spacing of the images, where no pyramid carries values across the edge of a mask."""


def grown(mask: Image, voxels: int) -> Tensor:
    return torch.from_numpy(
        binary_dilation(mask.data[0].numpy() > 0, np.ones([3] * mask.grid.ndim), voxels)
    )[None]


def test_what_lies_outside_the_grown_fixed_mask_changes_nothing(phantom: PhantomPair) -> None:
    pair, grid = pair_of(phantom), phantom.fixed.grid
    far = (
        torch.cdist(grid.points(torch.float64).reshape(-1, grid.ndim), in_mask(phantom))
        .amin(1)
        .reshape(1, *grid.shape)
        > NATIVE.mask_margin_mm
    )
    assert 0.1 < float(far.double().mean()) < 0.9
    absurd = replace(pair, fixed=pair.fixed.with_data(torch.where(far, 1e6, pair.fixed.data)))
    expected = NATIVE.run(pair).transform.displacement_on(grid)
    assert torch.equal(NATIVE.run(absurd).transform.displacement_on(grid), expected)
    tighter = replace(NATIVE, mask_margin_mm=0.0).run(pair).transform.displacement_on(grid)
    assert not torch.equal(tighter, expected)  # the margin took part


def test_what_lies_outside_the_moving_mask_changes_nothing(phantom: PhantomPair) -> None:
    pair, stage = pair_of(phantom), replace(NATIVE, use_moving_mask=True)
    absurd = replace(
        pair,
        moving=pair.moving.with_data(
            torch.where(grown(phantom.moving_mask, 1), pair.moving.data, 1e6)
        ),
    )
    results = [
        s.run(p).transform.displacement_on(phantom.fixed.grid)
        for s, p in ((stage, pair), (stage, absurd), (NATIVE, pair))
    ]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])  # it is not looked at unless asked for


def test_at_coarse_levels_what_lies_beyond_the_crop_changes_nothing(flat: PhantomPair) -> None:
    """The pyramid blurs before it masks: values a few coarse voxels outside may act, those beyond
    may not.
    """
    grid = flat.fixed.grid
    small = torch.zeros(grid.shape)
    small[20:26, 18:24] = 1
    pair = replace(pair_of(flat), fixed_mask=Image(small[None], grid, "small"))
    stage = replace(FREE_FORM, similarities=(MSE(),), scales=(Scale(4, 5),), mask_margin_mm=0.0)
    near = torch.zeros(grid.shape, dtype=torch.bool)
    near[12:34, 11:31] = True  # 4 * 4 mm around the mask
    absurd = replace(pair, fixed=pair.fixed.with_data(torch.where(near, pair.fixed.data, 1e6)))
    assert torch.equal(
        stage.run(absurd).transform.displacement_on(grid),
        stage.run(pair).transform.displacement_on(grid),
    )


def test_a_level_is_cropped_to_the_mask(phantom: PhantomPair) -> None:
    stage = replace(FREE_FORM, mask_margin_mm=0.0)
    level, everything = (
        stage.level(pair_of(phantom), 4.0),
        stage.level(ImagePair(phantom.fixed, phantom.moving), 4.0),
    )
    assert level.fixed.grid.n_voxels <= everything.fixed.grid.n_voxels
    assert level.fixed.grid.same_as(level.fixed_mask.grid)
    assert level.fixed.grid.aligned_with(phantom.fixed.grid)
    torch.testing.assert_close(
        everything.fixed_mask.data, torch.ones_like(everything.fixed_mask.data)
    )
    volume = float(level.fixed_mask.data.sum()) * level.fixed.grid.spacing.prod()
    assert volume == pytest.approx(
        float((phantom.fixed_mask.data > 0).sum()) * phantom.fixed.grid.spacing.prod(), rel=0.03
    )


def test_an_empty_mask_is_refused(flat: PhantomPair) -> None:
    with pytest.raises(InputError, match="nothing here is empty"):
        QUICK.run(
            replace(
                pair_of(flat),
                fixed_mask=Image(
                    torch.zeros(1, *flat.fixed.grid.shape), flat.fixed.grid, "nothing here"
                ),
            )
        )


# --- terms ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Absolute:
    """A user's own term."""

    weight: float = 1.0
    name: str = "absolute"

    def __call__(self, step: Step) -> Tensor:
        return (step.weight * (step.fixed() - step.warped()).abs()).sum() / step.weight.sum()


@dataclass(frozen=True)
class Stillness:
    """A user's own penalty."""

    weight: float = 1.0
    name: str = "stillness"

    def __call__(self, step: Step) -> Tensor:
        return step.displacement.square().sum(-1).mean()


def test_a_users_own_terms_can_be_swapped_in(phantom: PhantomPair) -> None:
    assert isinstance(Absolute(), Term)
    own = replace(
        FREE_FORM, similarities=(Absolute(),), penalties=(Stillness(1e-5),), optimiser=Adam(0.5)
    )
    result = own.run(pair_of(phantom))
    # measured: 0.14 and 0.15
    assert remaining(result.transform, phantom.truth, in_mask(phantom)) < 0.25
    assert set(result.history[0].terms) == {"absolute", "stillness"}


def test_a_penalty_pulls_by_its_weight(flat: PhantomPair) -> None:
    sizes = [
        float(
            replace(QUICK, penalties=(Stillness(weight),))
            .run(pair_of(flat))
            .transform.displacement_on(flat.fixed.grid)
            .norm(dim=-1)
            .mean()
        )
        for weight in (0.0, 1e-3, 1.0)
    ]
    assert sizes[0] > sizes[1] > 2 * sizes[2]


def test_penalties_see_the_sites_of_their_own_sampler(flat: PhantomPair) -> None:
    seen: list[int] = []

    @dataclass(frozen=True)
    class Spy:
        weight: float = 1.0
        name: str = "spy"

        def __call__(self, step: Step) -> Tensor:
            seen.append(step.sites.points[..., 0].numel())
            return step.displacement.square().mean()

    level = QUICK.level(pair_of(flat), 8.0)
    for sampler, expected in (
        (WholeGrid(), level.fixed.grid.n_voxels),
        (WholeGrid(12.0), level.fixed.grid.resampled(12.0).n_voxels),
        (RandomPoints(77), 77),
    ):
        seen.clear()
        replace(QUICK, penalties=(Spy(),), penalty_sampler=sampler, scales=(Scale(8, 2),)).run(
            pair_of(flat)
        )
        assert seen == [expected] * 2


def test_no_similarity_is_refused(flat: PhantomPair) -> None:
    with pytest.raises(InputError, match="at least one similarity"):
        Registration(FreeForm(), ()).run(pair_of(flat))


@pytest.mark.parametrize(
    "model", [LinearModel("affine"), NeuralModel(options=SIREN)], ids=["affine", "network"]
)
def test_refining_what_has_no_lattice_is_refused(
    flat: PhantomPair, model: LinearModel | NeuralModel
) -> None:
    with pytest.raises(TransformError, match="has no lattice to refine to 12"):
        replace(QUICK, transform=model, scales=(Scale(8, 2), Scale(4, 2, 12.0))).run(pair_of(flat))


def test_a_window_too_large_for_a_level_is_refused(flat: PhantomPair) -> None:
    with pytest.raises(InputError, match="choose a smaller window_mm"):
        replace(FREE_FORM, similarities=(LNCC(200.0),)).run(pair_of(flat))


def test_loose_points_do_not_bend(flat: PhantomPair) -> None:
    with pytest.raises(InputError, match="penalty_sampler"):
        replace(FREE_FORM, penalty_sampler=RandomPoints(50)).run(pair_of(flat))


# --- guides ---------------------------------------------------------------------------------------


def test_guides_pull_the_field_towards_them(phantom: PhantomPair) -> None:
    """Two equal images say stay, one pair of guides says 6 mm to the side."""
    here = torch.tensor(phantom.fixed.grid.center)[None]
    there = here + 6.0 * torch.eye(here.shape[1], dtype=torch.float64)[:1]
    alone, guided = (
        replace(QUICK, scales=(Scale(8, 40),)).run(
            ImagePair(phantom.fixed, phantom.fixed, guides=guides)
        )
        for guides in (None, (Points(here), Points(there)))
    )
    assert float((alone.transform(here) - here).norm()) < 0.5
    assert float((guided.transform(here) - there).norm()) < 3
    assert set(guided.history[0].terms) == {"mse", "landmarks"}
    assert set(alone.history[0].terms) == {"mse"}


# --- what a run tells -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def told(flat: PhantomPair) -> tuple[StageResult, list[Record]]:
    heard: list[Record] = []
    terms: tuple[Term, ...] = (LNCC(12.0), LNCC(20.0, weight=0.5), MSE())
    stage = replace(
        FREE_FORM,
        similarities=terms,
        penalties=(Bending(0.5), Diffusion(0.1)),
        scales=(Scale(8, 5), Scale(4, 7, 12.0)),
        name="told",
    )
    return stage.run(pair_of(flat), progress=heard.append), heard


def test_progress_hears_every_iteration_as_it_is_kept(
    told: tuple[StageResult, list[Record]],
) -> None:
    result, heard = told
    assert heard == result.history
    assert [(r.stage, r.level_mm, r.iteration, r.iterations) for r in heard] == [
        ("told", 8, i, 5) for i in range(5)
    ] + [("told", 4, i, 7) for i in range(7)]
    assert result.name == "told"
    assert result.seconds > 0


def test_the_terms_of_a_record_sum_to_its_cost(told: tuple[StageResult, list[Record]]) -> None:
    """Terms that share a name share an entry."""
    for record in told[1]:
        assert set(record.terms) == {"lncc", "mse", "bending", "diffusion"}
        assert sum(record.terms.values()) == pytest.approx(record.cost, rel=1e-5)


def test_the_cost_of_a_level_falls(told: tuple[StageResult, list[Record]]) -> None:
    for level in (8, 4):
        costs = [r.cost for r in told[1] if r.level_mm == level]
        assert costs[-1] < costs[0]


def test_a_registration_is_a_stage(flat: PhantomPair) -> None:
    stage: Stage = QUICK
    assert stage.run(pair_of(flat), None, seed=0, progress=None).outcome is Outcome.ITERATION_LIMIT


def test_an_interrupt_keeps_what_was_reached(flat: PhantomPair) -> None:
    def interrupt(record: Record) -> None:
        if record.iteration == 9:
            raise KeyboardInterrupt

    result = replace(QUICK, scales=(Scale(8, 12), Scale(4, 12))).run(
        pair_of(flat), progress=interrupt
    )
    assert result.outcome is Outcome.INTERRUPTED
    assert {r.level_mm for r in result.history} == {8}
    ten = replace(QUICK, optimiser=replace(QUICK.optimiser), scales=(Scale(8, 12),))
    states: list[Tensor] = []
    ready = BSpline.over(flat.fixed.grid, 24.0)
    ten.fit(
        ready,
        pair_of(flat),
        None,
        torch.Generator(),
        lambda _: states.append(ready.coefficients.detach().clone()),
    )
    # the tenth step was whole
    assert torch.equal(result.transform.state_dict()["coefficients"], states[9])
    assert not any(p.requires_grad for p in result.transform.parameters())


def test_a_cost_that_breaks_keeps_the_last_finite_field(flat: PhantomPair) -> None:
    left = iter(range(5, -10, -1))

    @dataclass(frozen=True)
    class Breaking:
        weight: float = 1.0
        name: str = "breaking"

        def __call__(self, step: Step) -> Tensor:
            return step.displacement.sum() * (0.0 if next(left) > 0 else float("nan"))

    result = replace(QUICK, penalties=(Breaking(),), scales=(Scale(8, 12), Scale(4, 12))).run(
        pair_of(flat)
    )
    assert result.outcome is Outcome.NON_FINITE
    assert len(result.history) == 5
    field = result.transform.displacement_on(flat.fixed.grid)
    assert bool(torch.isfinite(field).all())
    assert float(field.abs().max()) > 0


def test_on_every_device_it_finds_the_same(flat: PhantomPair, device: torch.device) -> None:
    result = FREE_FORM.run(pair_of(flat).to(device))
    assert result.transform.device.type == device.type
    assert remaining(result.transform.to("cpu"), flat.truth, in_mask(flat)) < 0.25
