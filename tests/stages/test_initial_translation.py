"""The robust start: which candidate wins where, and that images which miss each other in world
space are brought together.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from worlds import oblique

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.ops.masks import cropped
from inrreg.optimisation import Outcome
from inrreg.phantoms import PhantomPair, blob_pair
from inrreg.stages.initial_translation import InitialTranslation, candidate_shifts
from inrreg.transforms import Affine, Composite, Translation

FAR = np.array([310.0, -250.0, 400.0])
"""Farther than the images are long."""


@pytest.fixture(
    scope="module",
    params=[((32, 28, 20), (4.0, 4.5, 6.0), 60), ((48, 44), (4.0, 3.5), 40)],
    ids=["3-D", "2-D"],
)
def phantom(request: pytest.FixtureRequest) -> PhantomPair:
    """Blobs that move by 1 mm on average: a start to 8 mm of that is good."""
    shape, spacing, n_blobs = request.param
    return blob_pair(shape, spacing=spacing, shift_mm=1.0, n_blobs=n_blobs, seed=4)


def away(image: Image, shift: np.ndarray) -> Image:
    """The image with its header moved by ``shift`` mm."""
    affine = image.grid.affine.copy()
    affine[: image.grid.ndim, -1] += shift[: image.grid.ndim]
    return image.with_data(image.data, Grid(image.grid.shape, affine))


def padded(image: Image, lower: Sequence[int], upper: Sequence[int]) -> Image:
    """The image with that many empty voxels more at each end of each axis."""
    widths = [
        width for pair in zip(reversed(lower), reversed(upper), strict=True) for width in pair
    ]
    grid = image.grid.cropped(
        [-n for n in lower], [n + m for n, m in zip(image.grid.shape, upper, strict=True)]
    )
    return image.with_data(torch.nn.functional.pad(image.data, widths), grid)


def cluttered(image: Image) -> Image:
    """The image with a bright slab at its first end: mass that belongs to nothing."""
    data = image.data.clone()
    data[:, :4] = float(image.data.max())
    return image.with_data(data)


def found(pair: ImagePair, stage: InitialTranslation | None = None) -> tuple[str, np.ndarray]:
    """What was chosen, and its shift."""
    result = (stage or InitialTranslation()).run(pair)
    assert result.outcome is Outcome.CONVERGED
    shift = np.array(result.notes["translation_mm"])
    point = torch.tensor(pair.fixed.grid.center)
    np.testing.assert_allclose((result.transform(point) - point).numpy(), shift, atol=1e-9)
    return result.notes["chosen"], shift


# --- who wins -------------------------------------------------------------------------------------


def test_good_headers_are_believed(phantom: PhantomPair) -> None:
    chosen, shift = found(
        ImagePair(phantom.fixed, phantom.moving, phantom.fixed_mask, phantom.moving_mask)
    )
    assert chosen == "headers"
    assert not shift.any()


def test_masks_win_where_mass_and_grids_mislead(phantom: PhantomPair) -> None:
    d = phantom.fixed.grid.ndim
    uneven = [9, 0, 4][:d], [0, 12, 0][:d]
    moving, moving_mask = (
        away(padded(image, *uneven), FAR) for image in (phantom.moving, phantom.moving_mask)
    )
    chosen, shift = found(
        ImagePair(phantom.fixed, cluttered(moving), phantom.fixed_mask, moving_mask)
    )
    assert chosen == "mask centroids"
    assert np.linalg.norm(shift - FAR[:d]) < 8


def test_mass_wins_where_grids_mislead(phantom: PhantomPair) -> None:
    d = phantom.fixed.grid.ndim
    moving = away(padded(phantom.moving, [9, 0, 4][:d], [0, 12, 0][:d]), FAR)
    chosen, shift = found(ImagePair(phantom.fixed, moving))
    assert chosen == "image moments"
    assert np.linalg.norm(shift - FAR[:d]) < 8


def test_middles_win_where_mass_misleads(phantom: PhantomPair) -> None:
    chosen, shift = found(ImagePair(phantom.fixed, away(cluttered(phantom.moving), FAR)))
    assert chosen == "physical centres"
    # the phantom's grids share their centre
    np.testing.assert_allclose(shift, FAR[: len(shift)], atol=1e-9)


def test_a_search_wins_where_nothing_else_overlaps(phantom: PhantomPair) -> None:
    """The object fills a corner of a large fixed image, as its mask says, and more lies in the
    opposite one; the moving mask is not known.
    """
    d = phantom.fixed.grid.ndim
    room = [0] * d, [2 * n for n in phantom.fixed.grid.shape]
    fixed, fixed_mask = (padded(image, *room) for image in (phantom.fixed, phantom.fixed_mask))
    fixed.data[(0, *[slice(-n, None) for n in phantom.fixed.grid.shape])] = phantom.fixed.data.max()
    chosen, shift = found(ImagePair(fixed, away(phantom.moving, FAR), fixed_mask))
    assert chosen == "search"
    assert np.linalg.norm(shift - FAR[:d]) < 12  # the lattice ends at steps of 4 to 8 mm


def test_the_margin_says_how_much_better_another_must_be(phantom: PhantomPair) -> None:
    pair = ImagePair(phantom.fixed, away(phantom.moving, 0.08 * FAR))
    assert found(pair, InitialTranslation(margin=2.0))[0] == "headers"
    chosen, shift = found(pair, InitialTranslation(margin=0.0))
    assert chosen != "headers"
    assert np.linalg.norm(shift - 0.08 * FAR[: len(shift)]) < 8


# --- images that miss each other ------------------------------------------------------------------


def test_images_apart_in_world_space_are_brought_together_with_a_warning(
    phantom: PhantomPair, caplog: pytest.LogCaptureFixture
) -> None:
    pair = ImagePair(phantom.fixed, away(phantom.moving, FAR))
    with caplog.at_level(logging.WARNING, logger="inrreg.stages.initial_translation"):
        result = InitialTranslation().run(pair)
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "do not overlap in world space" in caplog.text
    assert result.notes["header_overlap_percent"] == 0
    assert result.notes["overlap_percent"] > 80
    assert (
        np.linalg.norm(np.array(result.notes["translation_mm"]) - FAR[: phantom.fixed.grid.ndim])
        < 8
    )


def test_images_that_overlap_need_no_warning(
    phantom: PhantomPair, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="inrreg.stages.initial_translation"):
        InitialTranslation().run(ImagePair(phantom.fixed, phantom.moving))
    assert {r.levelname for r in caplog.records} == {"INFO"}
    assert all(
        origin in caplog.text
        for origin in ("headers", "image moments", "physical centres", "chosen start")
    )


@pytest.mark.parametrize(
    "contrast", [lambda v: 1 - v, lambda v: 300 * (v - 0.3) ** 2 - 1000], ids=["inverted", "folded"]
)
def test_images_of_another_kind_work_too(
    phantom: PhantomPair, contrast: Callable[[Tensor], Tensor]
) -> None:
    moving = phantom.moving.with_data(contrast(phantom.moving.data))
    shift = found(
        ImagePair(
            phantom.fixed, away(moving, FAR), phantom.fixed_mask, away(phantom.moving_mask, FAR)
        )
    )[1]
    assert np.linalg.norm(shift - FAR[: len(shift)]) < 8
    assert (
        found(ImagePair(phantom.fixed, moving, phantom.fixed_mask, phantom.moving_mask))[0]
        == "headers"
    )


@pytest.mark.parametrize("which", ["fixed", "moving"])
def test_a_small_field_of_view_inside_a_large_one_keeps_its_headers(
    phantom: PhantomPair, which: str
) -> None:
    shape = getattr(phantom, which).grid.shape
    part = cropped(getattr(phantom, which), [n // 4 for n in shape], [n - n // 3 for n in shape])
    pair = replace(ImagePair(phantom.fixed, phantom.moving), **{which: part})
    result = InitialTranslation().run(pair)
    assert result.notes["chosen"] == "headers"
    assert result.notes["header_overlap_percent"] > 95  # of the smaller one


def test_nothing_to_overlap_is_an_error() -> None:
    """The fixed mask is a far ring around the small moving image, wherever that is put."""
    grid = Grid.from_spacing((100, 100), 4.0, (-31.0, 47.0), oblique(2))
    image = Image(
        torch.rand(1, *grid.shape, generator=torch.Generator().manual_seed(0)), grid, "map.png"
    )
    ring = torch.zeros(grid.shape)
    ring[0], ring[-1], ring[:, 0], ring[:, -1] = 1, 1, 1, 1
    small = Image(
        image.data[:, :10, :10].contiguous(), grid.cropped((45, 45), (55, 55)), "detail.png"
    )
    with pytest.raises(InputError, match=r"no shift brings map.png and detail.png to overlap"):
        InitialTranslation().run(ImagePair(image, small, Image(ring[None], grid, "ring")))


# --- with a start already there -------------------------------------------------------------------


def test_a_good_initial_transform_is_kept(phantom: PhantomPair) -> None:
    d = phantom.fixed.grid.ndim
    initial = Translation.by(FAR[:d]).requires_grad_(False)
    pair = ImagePair(phantom.fixed, away(phantom.moving, FAR))
    assert list(candidate_shifts(pair, initial)) == ["headers"]
    result = InitialTranslation().run(pair, initial)
    points = phantom.fixed.grid.points(torch.float64)
    assert result.notes["chosen"] == "headers"
    torch.testing.assert_close(result.transform(points), initial(points), rtol=0, atol=1e-9)
    assert isinstance(result.transform, Composite)
    assert not any(p.requires_grad for p in result.transform.parameters())


def test_a_search_goes_through_the_initial_transform(phantom: PhantomPair) -> None:
    """A turned start that misses by far: what is found is a shift before it."""
    d = phantom.fixed.grid.ndim
    turn = Affine.from_matrix(oblique(d), np.zeros(d), phantom.fixed.grid.center).requires_grad_(
        False
    )
    turned = phantom.moving.with_data(
        phantom.moving.data,
        Grid(phantom.moving.grid.shape, turn.homogeneous().numpy() @ phantom.moving.grid.affine),
    )
    missing = Composite([turn, Translation.by(-FAR[:d])]).requires_grad_(False)
    result = InitialTranslation().run(ImagePair(phantom.fixed, turned), missing)
    assert result.notes["searched"]
    points = phantom.fixed.grid.points(torch.float64)[phantom.fixed_mask.data[0] > 0]
    # 1 mm of motion and half a diagonal of the last lattice
    assert float((result.transform(points) - turn(phantom.truth(points))).norm(dim=-1).mean()) < 12


def test_the_same_again_gives_the_same(phantom: PhantomPair) -> None:
    pair = ImagePair(phantom.fixed, away(phantom.moving, FAR))
    assert (
        InitialTranslation().run(pair, seed=1).notes == InitialTranslation().run(pair, seed=2).notes
    )
