"""Discrete registration as a stage: known motion is found by every combination, stages are
composed, and what it is asked for is checked before it works.
"""

import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from roof_cases import CONTINUOUS, everywhere
from torch import Tensor
from worlds import oblique

import graphreg
import inrreg
from graphreg import (
    Foerstner,
    GraphRegistration,
    Independent,
    Labels,
    LeastSquaresSpline,
    LoopyMinSum,
    NearestNeighbours,
    NormalisedConvolution,
    Quadratic,
    RandomKeypoints,
    RegularKeypoints,
    Search,
    SpanningTree,
    ThinPlate,
    TreeMinSum,
)
from graphreg.graph_registration import merged
from inrreg.app.plan import plan
from inrreg.app.register import prepare, run_stages
from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, LabelImage
from inrreg.core.image_pair import ImagePair
from inrreg.objective.features import RobustWindow, Window
from inrreg.ops.sampling import linear
from inrreg.optimisation import Outcome
from inrreg.optimisation.stage_result import Record, StageResult
from inrreg.phantoms import PhantomPair, blob_pair, lung_pair
from inrreg.presets import Preset, preset
from inrreg.stages.both_directions import BothDirections
from inrreg.stages.gradient_registration import Scale
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.stages.mask_alignment import MaskAlignment
from inrreg.stages.refinement import Refinement
from inrreg.transforms import Affine, BSpline, Composite, Transform, identity

COARSE = Search(Labels(20.0, 5.0), Foerstner(300, 9.0, 3.0, 3.0), spacing_mm=4.0)
FINE = Search(Labels(6.0, 2.0), Foerstner(400, 8.0, 3.0, 3.0), spacing_mm=3.0)
STAGE = GraphRegistration((COARSE, FINE), lattice_mm=12.0)
"""About half a second on the texture below."""


@dataclass(frozen=True, eq=False)
class Texture:
    """Random waves of 14 to 40 mm, seen by the moving image; the fixed one shows
    ``texture(truth(x))``, so that no map has to be inverted and nothing is resampled.
    """

    ndim: int

    def __call__(self, points: Tensor) -> Tensor:
        rng = np.random.default_rng(5)
        direction = rng.standard_normal((60, self.ndim))
        waves = torch.from_numpy(
            direction
            / np.linalg.norm(direction, axis=1, keepdims=True)
            * (2 * np.pi / rng.uniform(14, 40, (60, 1)))
        )
        return (points @ waves.T + torch.from_numpy(rng.uniform(0, 2 * np.pi, 60))).sin().sum(-1)

    def truth(self, points: Tensor) -> Tensor:
        """A shift of about 10 mm that varies by 4 mm to either side over 150 mm."""
        d = self.ndim
        shift = torch.tensor([7.0, -5.0, 6.0][:d], dtype=torch.float64)
        return (
            points
            + shift
            + 4.0
            * (2 * np.pi / 150.0 * points.roll(1, -1) + torch.arange(d, dtype=torch.float64)).sin()
        )

    def pair(self, noise: float = 0.0) -> ImagePair:
        """Two oblique grids that do not share their axes; the mask leaves out what the motion
        carries out of the moving image.
        """
        shape, d = (34, 30, 28)[: self.ndim], self.ndim
        fixed_grid = _around((10.0, -20.0, 70.0)[:d], shape, (4.0, 4.2, 4.5)[:d], oblique(d))
        moving_grid = _around(
            (14.0, -23.0, 73.0)[:d],
            tuple(n + 4 for n in shape),
            (4.3, 4.0, 4.2)[:d],
            oblique(d) @ oblique(d),
        )
        fixed, moving = (
            self(self.truth(fixed_grid.points(torch.float64))),
            self(moving_grid.points(torch.float64)),
        )
        draws = torch.Generator().manual_seed(9)
        fixed, moving = (
            image + noise * torch.randn(image.shape, generator=draws) for image in (fixed, moving)
        )
        within = (fixed_grid.points(torch.float64) - torch.from_numpy(fixed_grid.center)).norm(
            dim=-1
        ) < 48
        images = (
            Image(fixed.float()[None], fixed_grid, "fixed"),
            Image(moving.float()[None], moving_grid, "moving"),
        )
        return ImagePair(
            *images, LabelImage(within.to(torch.uint8)[None], fixed_grid, "fixed mask")
        ).prepared(RobustWindow())


def _around(
    center: tuple[float, ...],
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    direction: np.ndarray,
) -> Grid:
    middle = (direction * np.array(spacing)) @ ((np.array(shape) - 1) / 2)
    return Grid.from_spacing(shape, spacing, np.array(center) - middle, direction)


TEXTURE = Texture(3)


@pytest.fixture(scope="module")
def pair() -> ImagePair:
    return TEXTURE.pair()


@pytest.fixture(scope="module")
def plain(pair: ImagePair) -> StageResult:
    return STAGE.run(pair)


@pytest.fixture(scope="module")
def breathing() -> PhantomPair:
    return lung_pair((32, 28, 28), 6.0, motion_mm=12.0, n_landmarks=30, seed=0)


def in_mask(pair: ImagePair) -> Tensor:
    assert pair.fixed_mask is not None
    return pair.fixed.grid.points(torch.float64)[pair.fixed_mask.data[0] > 0]


def error_mm(transform: Transform, pair: ImagePair, texture: Texture = TEXTURE) -> float:
    points = in_mask(pair)
    with torch.no_grad():
        return float((transform(points) - texture.truth(points)).norm(dim=-1).mean())


def landmark_error(transform: Transform, phantom: PhantomPair, of: str = "") -> float:
    chosen = torch.tensor([label.startswith(of) for label in phantom.fixed_landmarks.labels])
    with torch.no_grad():
        return float(
            (transform(phantom.fixed_landmarks.coords) - phantom.moving_landmarks.coords)
            .norm(dim=1)[chosen]
            .mean()
        )


def permuted(image: Image, axes: tuple[int, ...]) -> Image:
    """The same image with its index axes in another order."""
    affine = image.grid.affine[:, [*axes, len(axes)]]
    return image.with_data(
        image.data.permute(0, *[a + 1 for a in axes]).contiguous(),
        Grid(tuple(image.grid.shape[a] for a in axes), affine),
    )


def test_a_range_along_the_world_is_met_whatever_the_order_of_the_index_axes(
    breathing: PhantomPair,
) -> None:
    views, reach = (
        (
            breathing.fixed,
            breathing.moving,
            breathing.fixed_mask,
            breathing.moving_mask,
        ),
        {"down": (5.0, 5.0, 20.0), "across": (20.0, 5.0, 5.0)},
    )
    errors = {}
    for name, range_mm in reach.items():
        stage = GraphRegistration((replace(COARSE, labels=Labels(range_mm, 5.0)),), lattice_mm=12.0)
        for axes in ((0, 1, 2), (2, 0, 1)):
            pair = ImagePair(*[permuted(view, axes) for view in views]).prepared(Window(-1000, 200))
            errors[name, axes[0]] = landmark_error(stage.run(pair).transform, breathing, "lung")
    before = landmark_error(identity(3), breathing, "lung")
    assert errors["down", 0] < 0.5 * before, errors
    assert errors["down", 2] == pytest.approx(errors["down", 0], abs=0.5)
    assert min(errors["across", 0], errors["across", 2]) > 1.5 * errors["down", 0], errors


# --- recovery -------------------------------------------------------------------------------------


TREE, LOOPY = (
    (SpanningTree(), TreeMinSum(Quadratic(0.001))),
    (
        NearestNeighbours(6),
        LoopyMinSum(Quadratic(0.0005)),
    ),
)
WAYS = {
    "tree, thin plate": (*TREE, ThinPlate()),
    "tree, normalised convolution": (*TREE, NormalisedConvolution(10.0)),
    "tree, least squares": (*TREE, LeastSquaresSpline()),
    "loopy, thin plate": (*LOOPY, ThinPlate()),
    "loopy, normalised convolution": (*LOOPY, NormalisedConvolution(10.0)),
}


@pytest.mark.parametrize("way", WAYS)
def test_known_motion_is_recovered(pair: ImagePair, way: str) -> None:
    graph, inference, densifier = WAYS[way]
    searches = tuple(replace(search, graph=graph, inference=inference) for search in STAGE.searches)
    result = replace(STAGE, searches=searches, densifier=densifier, lattice_mm=28.0).run(pair)
    assert result.outcome is Outcome.CONVERGED
    assert 9.0 < float((TEXTURE.truth(in_mask(pair)) - in_mask(pair)).norm(dim=-1).mean()) < 13.0
    assert error_mm(result.transform, pair) < 1.0  # a quarter of a voxel; measured: 0.4 to 0.8


def test_the_fine_search_adds_to_the_coarse_one(pair: ImagePair, plain: StageResult) -> None:
    coarse = replace(STAGE, searches=(COARSE,)).run(pair)
    assert error_mm(plain.transform, pair) < 0.8 * error_mm(coarse.transform, pair)


def test_a_breath_is_recovered(breathing: PhantomPair) -> None:
    searches = (
        Search(Labels(24.0, 6.0), Foerstner(400, 10.0, 4.0, 4.0), spacing_mm=5.0),
        Search(Labels(8.0, 2.0), Foerstner(600, 8.0, 3.0, 3.0), spacing_mm=4.0),
    )
    result = graphreg.register(
        breathing.fixed,
        breathing.moving,
        breathing.fixed_mask,
        breathing.moving_mask,
        intensity=Window(-1000, 200),
        searches=searches,
        lattice_mm=12.0,
    )
    # measured: 3.3 mm, for voxels of 6 mm hold few vessels
    assert landmark_error(result.transform, breathing, "lung") < 0.4 * 12.0


def test_two_dimensions() -> None:
    flat = Texture(2)
    result = replace(
        STAGE,
        searches=tuple(
            replace(search, detector=Foerstner(300, 5.0, 2.0, 2.0)) for search in STAGE.searches
        ),
    ).run(flat.pair())
    assert result.transform.ndim == 2
    assert error_mm(result.transform, flat.pair(), flat) < 1.0
    phantom = blob_pair((48, 44), spacing=(2.0, 2.4), shift_mm=8.0, n_blobs=80, seed=1)
    searches = (
        Search(Labels(15.0, 3.0), Foerstner(200, 6.0)),
        Search(Labels(4.0, 1.0), Foerstner(200, 4.0)),
    )
    blobs = graphreg.register(phantom.fixed, phantom.moving, phantom.fixed_mask, searches=searches)
    # of 8 mm; measured: 0.8, with labels of 1 mm and voxels of 2
    assert landmark_error(blobs.transform, phantom) < 1.5


# --- composition ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def turned(pair: ImagePair) -> tuple[ImagePair, Affine]:
    """The pair with the moving world turned by a large angle, and that turn."""
    turn = Affine.from_matrix(
        oblique(3), [30.0, -20.0, 10.0], pair.fixed.grid.center
    ).requires_grad_(False)
    grid = Grid(pair.moving.grid.shape, turn.homogeneous().numpy() @ pair.moving.grid.affine)
    return replace(pair, moving=pair.moving.with_data(pair.moving.data, grid)), turn


def test_the_start_is_composed_with_what_is_found(
    pair: ImagePair, plain: StageResult, turned: tuple[ImagePair, Affine]
) -> None:
    other, turn = turned
    before = {name: value.clone() for name, value in turn.state_dict().items()}
    started = STAGE.run(other, turn).transform
    assert isinstance(started, Composite)
    assert [type(part) for part in started.chain] == [BSpline, Affine]
    points = in_mask(pair)
    u = started.chain[0].displacement(points)
    torch.testing.assert_close(started(points), turn(points + u))
    # which is what adding would give
    assert float((started(points) - (turn(points) + u)).norm(dim=-1).mean()) > 2
    # the images look the same through the turn, so the same is found; rarely a label that costs as
    # much as its neighbour is taken instead
    assert float((started(points) - turn(plain.transform(points))).norm(dim=-1).mean()) < 0.05
    assert float((started(points) - turn(TEXTURE.truth(points))).norm(dim=-1).mean()) < 1.0
    assert all(torch.equal(value, before[name]) for name, value in turn.state_dict().items())


def test_searches_are_composed(pair: ImagePair, plain: StageResult) -> None:
    """Both searches in one stage are what a stage for each gives one after the other, at the knots
    that the merged spline passes through.
    """
    first, second = run_stages(
        [replace(STAGE, searches=(search,)) for search in STAGE.searches], pair, None
    )
    assert isinstance(second.transform, Composite)
    u, before = second.transform.chain
    assert isinstance(plain.transform, BSpline)
    knots = plain.transform.lattice.points()
    torch.testing.assert_close(
        before.displacement(knots), first.transform.displacement(knots), rtol=0, atol=0
    )
    # single precision at 100 mm
    torch.testing.assert_close(
        second.transform(knots), first.transform(knots + u.displacement(knots)), rtol=0, atol=1e-3
    )
    torch.testing.assert_close(plain.transform(knots), second.transform(knots), rtol=0, atol=2e-3)
    added = knots + u.displacement(knots) + before.displacement(knots)
    assert float((added - plain.transform(knots)).norm(dim=-1).max()) > 0.1


def test_a_merged_spline_is_the_second_map_after_the_first(generator: torch.Generator) -> None:
    lattice = Grid.from_spacing((9, 8, 7), (10.0, 11.0, 12.0), (-40.0, 12.0, 5.0), oblique(3))
    first, then = (BSpline(lattice) for _ in range(2))
    with torch.no_grad():
        for spline in (first, then):
            spline.coefficients.copy_(
                16 * torch.rand(spline.coefficients.shape, generator=generator) - 8
            )
        knots = lattice.points()
        both = merged(first, then)(knots)
        torch.testing.assert_close(both, then(first(knots)), rtol=0, atol=1e-4)
        assert float((both - first(then(knots))).norm(dim=-1).max()) > 1  # the order matters
        assert float((both - (first(knots) + then(knots) - knots)).norm(dim=-1).max()) > 1


# --- trust ----------------------------------------------------------------------------------------


def test_both_ways_are_no_worse_than_one() -> None:
    noisy = TEXTURE.pair(noise=4.0)  # the texture has a standard deviation of 5.5
    stages = [
        replace(
            STAGE, searches=tuple(replace(search, symmetric=symmetric) for search in STAGE.searches)
        )
        for symmetric in (False, True)
    ]
    one, both = (error_mm(stage.run(noisy).transform, noisy) for stage in stages)
    assert both < 0.95 * one  # measured: 1.9 and 2.6 mm; without noise 0.41 and 0.46 mm


def test_confidence_and_disagreement(pair: ImagePair) -> None:
    for symmetric in (True, False):
        matches = replace(FINE, symmetric=symmetric).run(pair, None, torch.Generator(), 500.0)
        assert float(matches.confidence.min()) >= 0
        assert float(matches.confidence.max()) <= 1
        assert bool((matches.disagreement > 0).any()) == symmetric
        assert (matches.summary()["median_disagreement_mm"] > 0) == symmetric
        expected = (1 - matches.entropy) / (1 + (matches.disagreement / 2.0) ** 2)
        torch.testing.assert_close(matches.confidence, expected)


def test_right_matches_are_trusted_more() -> None:
    noisy = TEXTURE.pair(noise=4.0)
    matches = replace(COARSE, inference=Independent(), detector=RandomKeypoints(150)).run(
        noisy, None, torch.Generator().manual_seed(0), 500.0
    )
    off = (
        (matches.keypoints + matches.displacements).double()
        - TEXTURE.truth(matches.keypoints.double())
    ).norm(dim=1)
    sure = matches.confidence > matches.confidence.median()
    assert float(off[sure].mean()) < 0.6 * float(off[~sure].mean())  # measured: 3.5 and 9.0 mm


@pytest.mark.parametrize(
    "searches", [(COARSE,), (COARSE, FINE)], ids=["one search", "two searches"]
)
def test_correspondences_are_the_matches_of_the_last_search(
    turned: tuple[ImagePair, Affine], searches: tuple[Search, ...]
) -> None:
    pair, turn = turned
    result = replace(STAGE, searches=searches).run(pair, turn)
    before = (
        turn
        if len(searches) == 1
        else replace(STAGE, searches=searches[:-1]).run(pair, turn).transform
    )
    matches = searches[-1].run(pair, before, torch.Generator(), 500.0)
    found = result.correspondences
    assert found is not None
    torch.testing.assert_close(found.fixed.coords, matches.keypoints.double(), rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(
            found.moving.coords,
            before((matches.keypoints + matches.displacements).double()),
            rtol=0,
            atol=0,
        )
    assert torch.equal(found.confidence, matches.confidence)
    assert pair.fixed_mask is not None
    assert (
        float(
            linear(
                pair.fixed_mask.with_data(pair.fixed_mask.data.float()),
                found.fixed.coords.float(),
                outside=0.0,
            ).min()
        )
        > 0.5
    )
    assert len(found.fixed.coords) > 30
    with torch.no_grad():
        off = (result.transform(found.fixed.coords) - found.moving.coords).norm(dim=1)
    sure = found.confidence > found.confidence.median()
    # the thin plate is smoothed and drops outliers beyond 2 mm
    assert float(off[sure].median()) < 1.0
    with torch.no_grad():
        assert (
            float(
                (turn(TEXTURE.truth(found.fixed.coords)) - found.moving.coords)
                .norm(dim=1)[sure]
                .median()
            )
            < 1.5
        )


# --- the same again -------------------------------------------------------------------------------


def ball(grid: Grid, centre: Tensor, radius_mm: float) -> Image:
    return Image(
        ((grid.points(torch.float64) - centre).norm(dim=-1) < radius_mm).float()[None],
        grid,
        "lesion",
    )


def test_no_keypoint_lies_in_a_lesion_of_the_fixed_image(
    pair: ImagePair, plain: StageResult
) -> None:
    lesion = ball(pair.fixed.grid, torch.tensor(pair.fixed.grid.center), 18.0)
    for result, some in ((plain, True), (STAGE.run(replace(pair, fixed_lesion=lesion)), False)):
        assert result.correspondences is not None
        inside = linear(lesion, result.correspondences.fixed.coords, outside=0.0)[0] > 0.5
        assert bool(inside.any()) == some


def test_what_is_found_in_a_lesion_of_the_moving_image_is_not_trusted(
    pair: ImagePair, plain: StageResult
) -> None:
    assert plain.correspondences is not None
    lesion = ball(
        pair.moving.grid, TEXTURE.truth(torch.tensor(pair.fixed.grid.center)[None])[0], 24.0
    )
    found = STAGE.run(replace(pair, moving_lesion=lesion)).correspondences
    assert found is not None
    inside = linear(lesion, found.moving.coords, outside=0.0)[0] > 0.999
    assert int(inside.sum()) > 5
    assert bool((found.confidence[inside] < 0.001).all())
    assert float(found.confidence[~inside].mean()) > 0.5 * float(
        plain.correspondences.confidence.mean()
    )


def test_the_same_seed_gives_the_same_bits(pair: ImagePair) -> None:
    for detector, random in ((RandomKeypoints(120), True), (Foerstner(200, 9.0, 3.0, 3.0), False)):
        stage = GraphRegistration((replace(COARSE, detector=detector),), lattice_mm=16.0)
        one, again, other = (stage.run(pair, seed=seed) for seed in (3, 3, 4))
        fields = [
            result.transform.displacement_on(pair.fixed.grid) for result in (one, again, other)
        ]
        assert torch.equal(fields[0], fields[1])
        assert torch.equal(fields[0], fields[2]) != random
        assert one.correspondences is not None
        assert again.correspondences is not None
        assert torch.equal(one.correspondences.moving.coords, again.correspondences.moving.coords)


def test_global_random_numbers_are_left_alone(pair: ImagePair) -> None:
    before = torch.get_rng_state()
    GraphRegistration((replace(COARSE, detector=RandomKeypoints(60)),), lattice_mm=16.0).run(pair)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_search_is_reported(pair: ImagePair) -> None:
    seen: list[Record] = []
    result = STAGE.run(pair, progress=seen.append)
    assert seen == result.history
    assert [
        (record.stage, record.level_mm, record.iteration, record.iterations) for record in seen
    ] == [("graph", 5.0, 0, 1), ("graph", 2.0, 0, 1)]
    assert [record.cost for record in seen] == [entry["cost"] for entry in result.notes["searches"]]


def test_an_interrupt_between_searches_keeps_the_stage_before(pair: ImagePair) -> None:
    def stop(record: Record) -> None:
        raise KeyboardInterrupt

    start, interrupted = run_stages([InitialTranslation(), STAGE], pair, None, progress=stop)
    assert interrupted.outcome is Outcome.INTERRUPTED
    assert interrupted.transform is start.transform


# --- bad input ------------------------------------------------------------------------------------


def alarm(image: Image, mask: Image, generator: torch.Generator) -> Tensor:
    """A detector that must not be reached."""
    raise AssertionError("keypoints were looked for")


def test_no_searches(pair: ImagePair) -> None:
    with pytest.raises(
        InputError,
        match=r"needs at least one search, for instance searches=\(Search\(Labels\(32, 4\)\),\)",
    ):
        GraphRegistration(()).run(pair)
    with pytest.raises(InputError, match="at least one search"):
        graphreg.register(pair.fixed, pair.moving, searches=[])


def test_a_range_larger_than_the_image_is_refused_before_any_search(pair: ImagePair) -> None:
    for order in (1, -1):
        searches = (
            replace(COARSE, detector=alarm),
            replace(FINE, detector=alarm, labels=Labels(200.0, 20.0)),
        )[::order]
        with pytest.raises(
            InputError,
            match=(
                r"a search of \[200.0, 200.0, 200.0\] mm along the index axes is larger than the"
                r" image \(\[.*\] mm\); give a smaller range_mm"
            ),
        ):
            replace(STAGE, searches=searches).run(pair)


def test_a_constant_image(pair: ImagePair) -> None:
    flat = pair.fixed.with_data(torch.full_like(pair.fixed.data, 3.0))
    with pytest.raises(
        InputError,
        match=(
            r"fixed is 3 everywhere, so it has no window of intensities; check that it is the right"
            r" image"
        ),
    ):
        graphreg.register(flat, pair.moving, searches=[replace(COARSE, detector=alarm)])
    with pytest.raises(
        InputError, match=r"fixed has no keypoint inside fixed mask: it shows no structure there"
    ):
        STAGE.run(replace(pair, fixed=flat.with_data(torch.zeros_like(flat.data))))


def small_mask(grid: Grid, radius_mm: float) -> LabelImage:
    inside = (
        grid.points(torch.float64) - grid.to_world((torch.tensor(grid.shape) // 2).double())
    ).norm(dim=-1) <= radius_mm
    return LabelImage(inside.to(torch.uint8)[None], grid, "small mask")


def test_masks_without_room(pair: ImagePair) -> None:
    grid = pair.fixed.grid
    with pytest.raises(
        InputError,
        match=(
            r"nothing is empty: no voxel is above 0.5, and 1 means \"use this\"; leave the mask out"
        ),
    ):
        replace(STAGE, searches=(replace(COARSE, detector=alarm),)).run(
            replace(pair, fixed_mask=everywhere(grid, 0, "nothing"))
        )
    with pytest.raises(
        InputError,
        match=(
            r"small mask is too small for keypoints: shrunk by 20 mm nothing is left of it; give a"
            r" larger mask or a smaller erosion_mm"
        ),
    ):
        replace(STAGE, searches=(replace(COARSE, detector=Foerstner(300, 9.0, 3.0, 20.0)),)).run(
            replace(pair, fixed_mask=small_mask(grid, 9.0))
        )
    with pytest.raises(
        InputError, match=r"a thin-plate spline in 3-D needs at least 4 keypoints, got 1"
    ):
        STAGE.run(replace(pair, fixed_mask=small_mask(grid, 1.0)))


def test_fewer_keypoints_than_neighbours(pair: ImagePair) -> None:
    few = replace(COARSE, detector=RegularKeypoints(30.0), graph=NearestNeighbours(50))
    with pytest.raises(
        InputError,
        match=(
            r"50 nearest neighbours need more than 50 keypoints, got \d+; ask for fewer neighbours"
            r" or more keypoints"
        ),
    ):
        replace(STAGE, searches=(few,)).run(pair)


def test_too_little_memory_says_what_would_fit(pair: ImagePair) -> None:
    many = replace(COARSE, detector=RandomKeypoints(400))
    with pytest.raises(
        InputError, match=r"memory_mb is 1; \d+ keypoints would fit with these labels"
    ) as error:
        replace(STAGE, searches=(many,), memory_mb=1.0).run(pair)
    fits = int(re.search(r"(\d+) keypoints would fit", str(error.value)).group(1))  # type: ignore[union-attr]
    with pytest.raises(InputError, match="would fit"):
        replace(
            STAGE, searches=(replace(many, detector=RandomKeypoints(fits + 1)),), memory_mb=1.0
        ).run(pair)
    allowed = replace(many, detector=RandomKeypoints(fits))
    assert (
        replace(STAGE, searches=(allowed,), memory_mb=1.0)
        .run(pair)
        .notes["searches"][0]["keypoints"]
        == fits
    )


def test_paths_are_refused(pair: ImagePair) -> None:
    with pytest.raises(
        InputError,
        match=(
            r"takes inrreg Images, got str and Image; read files with inrreg.io.read_image, or use"
            r" inrreg.register\(..., preset='graph'\)"
        ),
    ):
        graphreg.register("fixed.nii.gz", pair.moving)  # type: ignore[arg-type]


# --- under the roof -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def blobs() -> PhantomPair:
    return blob_pair((30, 27, 24), spacing=6.0, shift_mm=12.0, n_blobs=300, seed=1)


BLOB_STAGE = GraphRegistration(
    (
        Search(Labels(24.0, 6.0), Foerstner(400, 9.0, 4.0, 4.0), spacing_mm=5.0),
        Search(Labels(8.0, 2.0), Foerstner(400, 8.0, 3.0, 3.0), spacing_mm=4.0),
    ),
    lattice_mm=15.0,
)


def test_a_registration_goes_on_from_what_was_found(blobs: PhantomPair) -> None:
    found = graphreg.register(
        blobs.fixed,
        blobs.moving,
        blobs.fixed_mask,
        searches=BLOB_STAGE.searches[:1],
        lattice_mm=15.0,
    )
    judged = {
        "fixed_mask": blobs.fixed_mask,
        "landmarks": (blobs.fixed_landmarks, blobs.moving_landmarks),
    }
    better = inrreg.register(
        blobs.fixed,
        blobs.moving,
        preset=Preset("on", "", RobustWindow(), (CONTINUOUS,)),
        initial=found.transform,
        **judged,
    )
    assert better.metrics.landmarks.mean_mm < 0.9 * landmark_error(found.transform, blobs)


def test_the_stages_tell_what_each_found(blobs: PhantomPair) -> None:
    both = Preset(
        "graph and fit",
        "",
        RobustWindow(),
        (InitialTranslation(), BLOB_STAGE, Refinement(CONTINUOUS)),
    )
    judged = inrreg.register(
        blobs.fixed,
        blobs.moving,
        preset=both,
        fixed_mask=blobs.fixed_mask,
        landmarks=(blobs.fixed_landmarks, blobs.moving_landmarks),
    )
    start, graph, fit = judged.metrics.to_json()["stages"]
    assert [stage["name"] for stage in (start, graph, fit)] == ["start", "graph", "continuous"]
    assert [set(entry) for entry in graph["searches"]] == [
        {
            "keypoints",
            "mean_displacement_mm",
            "mean_confidence",
            "mean_entropy",
            "median_disagreement_mm",
            "cost",
        }
    ] * 2
    assert graph["level_mm"] == [6.0, 2.0]
    assert "searches" not in start
    errors = [stage["landmarks"]["all"]["mean_mm"] for stage in (start, graph, fit)]
    assert errors[2] < errors[1] < errors[0]
    assert judged.metrics.landmarks.mean_mm == pytest.approx(errors[2])
    alone = inrreg.register(
        blobs.fixed,
        blobs.moving,
        preset=replace(both, stages=(BLOB_STAGE,)),
        fixed_mask=blobs.fixed_mask,
    )
    assert "landmarks" not in alone.metrics.to_json()["stages"][0]


def test_the_plan_lists_the_levels_of_wrapped_stages(blobs: PhantomPair) -> None:
    continuous = CONTINUOUS.with_scales(Scale(7, 11), Scale(5, 13))
    lines = list(
        plan(
            prepare(
                blobs.fixed,
                blobs.moving,
                preset=Preset(
                    "wrapped",
                    "",
                    stages=(
                        InitialTranslation(),
                        BLOB_STAGE,
                        BothDirections(Refinement(continuous)),
                    ),
                ),
            )
        )
    )
    assert [line for name, line in lines if name == "stage"] == [
        "start",
        "graph",
        "continuous: 7 mm (11 iterations), 5 mm (13 iterations)",
    ]


def test_the_lung_preset_finds_masks(breathing: PhantomPair) -> None:
    searches = (Search(Labels(24.0, 6.0), Foerstner(300, 10.0, 4.0, 4.0), spacing_mm=5.0),)
    short = replace(
        preset("lung"),
        stages=(InitialTranslation(), MaskAlignment(), replace(BLOB_STAGE, searches=searches)),
    )
    result = inrreg.register(breathing.fixed, breathing.moving, preset=short)
    notes = [note for note in result.metrics.notes if "found one over" in note]
    assert [note.split(" over ")[0] for note in notes] == [
        f"no {which} mask was given: preset lung found one" for which in ("fixed", "moving")
    ]
    assert result.pair is not None
    for mask, truth in (
        (result.pair.fixed_mask, breathing.fixed_mask),
        (result.pair.moving_mask, breathing.moving_mask),
    ):
        assert mask is not None
        found = mask.data > 0
        # partial volume at 6 mm voxels
        assert (
            float(2 * (found & (truth.data > 0)).sum() / (found.sum() + (truth.data > 0).sum()))
            > 0.9
        )
    assert "skipped" not in result.metrics.to_json()["stages"][1]
    assert landmark_error(result.transform, breathing, "lung") < 0.4 * 12.0  # measured: 2.0 mm
    given = inrreg.register(
        breathing.fixed,
        breathing.moving,
        preset=replace(short, stages=(InitialTranslation(),)),
        fixed_mask=breathing.fixed_mask,
        moving_mask=breathing.moving_mask,
    )
    assert not [note for note in given.metrics.notes if "found one" in note]
