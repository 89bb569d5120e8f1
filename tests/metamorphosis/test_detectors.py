"""Cheap detectors: thresholds in closed form, planted truths, what they are blind to, and one at
work in the stage.
"""

import math
from dataclasses import replace

import pytest
import torch
from steps import Given
from torch import Tensor
from worlds import oblique

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image
from inrreg.core.image_pair import ImagePair
from inrreg.metamorphosis.aligned import Aligned, Detector, align
from inrreg.metamorphosis.detectors import (
    DetectedMask,
    ForwardBackward,
    JacobianAnomaly,
    LiWyatt,
    robust_threshold,
    soft,
)
from inrreg.metamorphosis.evidence import MAD_OF_UNIT_NORMAL
from inrreg.metamorphosis.non_correspondence import NonCorrespondence
from inrreg.optimisation import Adam
from inrreg.phantoms import cut_c_pair
from inrreg.similarity import MSE
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.transforms import Affine, DenseDisplacement, FreeForm, Transform, Translation, identity

GRID = Grid.from_spacing(
    (34, 30, 20), (1.5, 1.7, 2.4), origin=(-31.0, 47.0, 112.0), direction=oblique(3)
)
MIDDLE = torch.tensor(GRID.center, dtype=torch.float32)


def smooth(seed: int) -> Tensor:
    """Waves between 0.2 and 0.8, some 25 mm long, ``[1, *shape]``."""
    phases = GRID.points() @ (0.25 * torch.tensor(oblique(3), dtype=torch.float32)) + seed
    return 0.5 + 0.1 * phases.sin().sum(-1)[None]


def grain(seed: int) -> Tensor:
    return torch.randn(1, *GRID.shape, generator=torch.Generator().manual_seed(seed))


def ball(radius_mm: float) -> Tensor:
    """True within ``radius_mm`` of the middle, ``[1, *shape]``."""
    return ((GRID.points() - MIDDLE).norm(dim=-1) < radius_mm)[None]


def seen(
    fixed: Tensor,
    warped: Tensor,
    there: Transform | None = None,
    back: Transform | None = None,
    weight: Tensor | None = None,
) -> Aligned:
    return Aligned(
        Image(fixed, GRID),
        Image(warped, GRID),
        Image(torch.ones(1, *GRID.shape) if weight is None else weight, GRID),
        there or identity(3),
        back,
    )


def pushed(radius_mm: float, by: float) -> Transform:
    """A map that swells about the middle: u = ``by`` (x - c) exp(-|x - c|^2 / (2 radius^2)), det J
    = (1 + by)^3 at c.
    """

    def displacement(points: Tensor) -> Tensor:
        offset = points - MIDDLE.to(points)
        return by * offset * torch.exp(-offset.square().sum(-1, keepdim=True) / (2 * radius_mm**2))

    return Given(displacement, 3)


def lost(radius_mm: float, mm: float) -> Transform:
    """A way back from the identity that goes astray by ``mm`` along x, in the ball alone."""
    return Given(
        lambda points: (
            mm
            * ((points - MIDDLE.to(points)).norm(dim=-1, keepdim=True) < radius_mm)
            * torch.tensor([1.0, 0.0, 0.0]).to(points)
        ),
        3,
    )


DETECTORS = [LiWyatt(), JacobianAnomaly(), ForwardBackward()]
each = pytest.mark.parametrize("detector", DETECTORS, ids=lambda detector: type(detector).__name__)


# --- the two rules that all share -----------------------------------------------------------------


def test_a_soft_mask_is_half_at_the_threshold_and_keeps_the_order() -> None:
    scores = torch.cat([torch.zeros(1), torch.logspace(-3, 2.5, 200)])[None]
    mask = soft(scores, torch.tensor(0.7))
    assert float(soft(torch.tensor([[0.7]]), torch.tensor(0.7))) == pytest.approx(0.5)
    assert bool((mask.diff() > 0).all())
    assert float(mask[0, 0]) == 0
    assert float(mask.max()) < 1
    assert bool((soft(torch.zeros(1, 3), torch.tensor(0.0)) == 0).all())


def test_a_threshold_is_three_standard_deviations_of_a_normal_difference() -> None:
    """Without its tail of outliers, which are a tenth."""
    score = 0.05 * torch.randn(1, 100_000, generator=torch.Generator().manual_seed(0)).abs()
    clean = float(robust_threshold(score, torch.ones_like(score), 4.0, 0.0))
    assert clean == pytest.approx(3 * 0.05, rel=0.03)
    score[:, :10_000] = 5.0
    assert float(robust_threshold(score, torch.ones_like(score), 4.0, 0.0)) < 1.3 * clean


def test_a_threshold_asks_only_where_something_is_seen() -> None:
    score, weight = (
        torch.tensor([[1.0, 2.0, 3.0, 100.0, 100.0, 100.0, 100.0]]),
        torch.tensor([[1.0, 1.0, 0.2, 0.0, 0.0, 0.0, 0.0]]),
    )
    assert float(robust_threshold(score, weight, 2.0, 0.0)) == pytest.approx(
        2 + 2 * 1 / MAD_OF_UNIT_NORMAL
    )
    assert float(robust_threshold(score, weight, 2.0, 7.0)) == pytest.approx(2 + 7)


# --- what holds for each of them ------------------------------------------------------------------


@each
def test_a_mask_lies_on_the_grid_of_the_view_and_is_0_outside_its_weight(
    detector: Detector, device: torch.device
) -> None:
    weight = 0.4 * (torch.arange(GRID.shape[0]) < 20).float()[None, :, None, None].expand(
        1, *GRID.shape
    )
    fixed, warped = torch.where(ball(8.0), 1.0, smooth(0)) + 0.01 * grain(1), smooth(0)
    view = seen(fixed, warped, pushed(4.0, 0.3), Translation.by([0.0, 0.3, 0.0]), weight)
    moved = Aligned(
        *[image.to(device) for image in (view.fixed, view.warped, view.weight)],
        view.forward.to(device),
        view.backward.to(device) if view.backward else None,
    )
    mask = detector(moved)
    assert mask.grid is GRID
    assert mask.device.type == device.type
    assert not mask.data.requires_grad
    assert mask.data.shape == (1, *GRID.shape)
    assert 0 < float(mask.data[:, :20].max()) <= 1
    assert float(mask.data[:, 20:].abs().max()) == 0


@each
def test_of_nothing_nothing_is_found(detector: Detector) -> None:
    nowhere = seen(
        smooth(0),
        smooth(1),
        Translation.by([1.0, 0.0, 0.0]),
        identity(3),
        torch.zeros(1, *GRID.shape),
    )
    assert float(detector(nowhere).data.abs().max()) == 0


@each
def test_of_a_perfect_match_nothing_is_found(detector: Detector) -> None:
    """Not of one that moves the whole image to and fro either."""
    mask = detector(
        seen(
            smooth(0), smooth(0), Translation.by([2.0, 1.0, 0.0]), Translation.by([-2.0, -1.0, 0.0])
        )
    )
    assert float(mask.data.max()) < 0.1


# --- residual and gradient ------------------------------------------------------------------------


def test_a_flat_difference_is_found_whatever_gain_and_offset() -> None:
    warped, gone = smooth(0), ball(7.0)
    for fixed in (warped, 0.6 * warped + 0.2):
        mask = LiWyatt()(seen(torch.where(gone, 1.0, fixed) + 0.01 * grain(2), warped)).data > 0.5
        assert float(mask[ball(4.5)].float().mean()) > 0.95
        assert float(mask[~ball(11.0)].float().mean()) < 0.01


def test_a_difference_counts_less_at_an_edge() -> None:
    """The same difference twice: where the fixed image is flat, and across an edge of it."""
    edge = ((GRID.points() - MIDDLE) @ torch.tensor(GRID.direction[:, 0], dtype=torch.float32))[
        None
    ]
    step = 0.25 * torch.tanh(edge / 1.5)
    difference = 0.15 * (torch.exp(-edge.square() / 8) + torch.exp(-(edge - 16).square() / 8))
    view = seen(0.5 + step + difference, 0.5 + step)
    mask = LiWyatt(math.inf)(view).data
    at_edge, in_flat = (mask[(edge - x).abs() < 0.8].mean() for x in (0.0, 16.0))
    assert float(in_flat) > 0.5 > float(at_edge)
    # blurred away, an edge hides nothing
    assert float(LiWyatt(math.inf, smoothing_mm=1e3)(view).data[edge.abs() < 0.8].mean()) > 0.5


def test_one_channel_that_differs_is_enough() -> None:
    image, gone = smooth(0) + 0.01 * grain(3), ball(7.0)
    two = seen(torch.cat([image, torch.where(gone, 1.0, image)]), torch.cat([smooth(0), smooth(0)]))
    assert float((LiWyatt()(two).data > 0.5)[ball(4.5)].float().mean()) > 0.95
    assert float((LiWyatt()(seen(image, smooth(0))).data > 0.5).float().mean()) < 0.01


# --- change of volume -----------------------------------------------------------------------------


@pytest.mark.parametrize("by", [0.3, -0.3])
def test_what_swells_and_what_shrinks_is_found(by: float) -> None:
    mask = JacobianAnomaly()(seen(smooth(0), smooth(0), pushed(4.0, by))).data
    assert bool((mask[ball(1.8)] > 0.5).all())
    assert float((mask[~ball(14.0)] > 0.5).float().mean()) < 0.02


def test_a_jacobian_is_judged_by_its_squared_logarithm() -> None:
    """Half the image by e^0.3, which is usual, a slab by e^1: 1 / (1 + t^2) there, with t = 0.3 +
    0.1.
    """
    column = ((GRID.points() - MIDDLE) @ torch.tensor(GRID.direction[:, 0], dtype=torch.float32))[
        None
    ]
    volume = torch.where(column > 18.0, math.e, math.exp(-0.3))
    view = seen(smooth(0), smooth(0))
    view.__dict__["determinant"] = volume
    mask = JacobianAnomaly(least=0.1)(view).data
    torch.testing.assert_close(
        mask[column > 18.0], torch.full_like(mask[column > 18.0], 1 / (1 + 0.4**2))
    )
    torch.testing.assert_close(
        mask[column <= 18.0], torch.full_like(mask[column <= 18.0], 0.3**2 / (0.3**2 + 0.4**2))
    )


def test_an_even_change_of_volume_is_no_anomaly_and_a_fold_is() -> None:
    shrunk = Affine.from_matrix((0.8 * torch.eye(3)).tolist(), [0.0, 0.0, 0.0], MIDDLE.tolist())
    assert float(JacobianAnomaly()(seen(smooth(0), smooth(0), shrunk)).data.max()) < 0.5
    folded = JacobianAnomaly()(seen(smooth(0), smooth(0), pushed(4.0, -1.5))).data
    assert bool(torch.isfinite(folded).all())
    assert float(folded[ball(2.0)].min()) > 0.99


# --- there and back -------------------------------------------------------------------------------


def test_a_way_back_that_goes_astray_is_found() -> None:
    mask = ForwardBackward()(seen(smooth(0), smooth(0), back=lost(12.0, 6.0))).data
    assert bool((mask[ball(7.0)] > 0.5).all())
    assert bool((mask[~ball(18.0)] < 0.5).all())


@pytest.mark.parametrize("mm", [1.0, 9.0])
def test_the_margin_is_over_the_mean(mm: float) -> None:
    """A way back that is astray everywhere by as much is nowhere above the mean."""
    mask = ForwardBackward(margin_mm=1.8)(
        seen(smooth(0), smooth(0), back=Translation.by([0.0, mm, 0.0]))
    ).data
    torch.testing.assert_close(mask, torch.full_like(mask, mm**2 / (mm**2 + (mm + 1.8) ** 2)))


def test_two_boxes_of_five_voxels_smooth_it() -> None:
    """One voxel astray becomes a tent of 9 voxels an axis: (5 - |i|) / 25 along each."""
    grid = Grid.from_spacing((21, 21, 21), 1.5)
    there = Given(torch.zeros_like, 3)
    view = Aligned(*[Image(torch.ones(1, *grid.shape), grid)] * 3, there, there)
    astray = torch.zeros(1, *grid.shape)
    astray[0, 10, 10, 10] = 1000.0
    view.__dict__["inconsistency"] = astray
    mask = ForwardBackward()(view).data[0]
    tent = (5 - (torch.arange(21) - 10).abs()).clamp(min=0) / 25
    smoothed, threshold = 1000 * tent[:, None, None] * tent[:, None] * tent, 1000 / 21**3 + 1.8
    torch.testing.assert_close(mask, smoothed.square() / (smoothed.square() + threshold**2))


def test_what_is_not_seen_does_not_blur_into_what_is() -> None:
    weight = 1 - ball(12.0).float()
    mask = ForwardBackward()(seen(smooth(0), smooth(0), back=lost(12.0, 50.0), weight=weight)).data
    assert float(mask.max()) == 0


def test_without_a_way_back_there_is_no_rule() -> None:
    with pytest.raises(
        InputError, match="this view has none: give `align` the map from moving to fixed"
    ):
        ForwardBackward()(seen(smooth(0), smooth(0)))


# --- in the stage ---------------------------------------------------------------------------------


def test_a_detector_stands_in_for_what_is_learned() -> None:
    """And what is known of lesions before stays known."""
    mask, believed, generator = (
        Image(ball(5.0).float(), GRID),
        torch.ones(1, *GRID.shape),
        torch.Generator(),
    )
    image = Image(smooth(0), GRID)
    rule, pair = DetectedMask(JacobianAnomaly()), ImagePair(image, image, moving_lesion=mask)
    assert rule.known(pair, None) is pair
    # likelier gone than not: left out wholly
    assert torch.equal(
        rule.known(pair, mask.with_data(0.7 * mask.data)).fixed_lesion.data, mask.data
    )
    assert rule.known(pair, mask).moving_lesion is None
    view = seen(image.data, image.data, pushed(4.0, 0.3))
    torch.testing.assert_close(rule.find(view, believed, generator), JacobianAnomaly()(view).data)
    told = rule.find(replace(view, lesion=ball(12.0).float()), believed, generator)
    assert bool((told[ball(12.0)] == 1).all())
    torch.testing.assert_close(told[~ball(12.0)], JacobianAnomaly()(view).data[~ball(12.0)])


def test_known_lesions_are_0_where_nothing_is_seen() -> None:
    view = replace(
        seen(smooth(0), smooth(0), weight=1 - ball(6.0).float()), lesion=ball(12.0).float()
    )
    assert (
        float(
            DetectedMask(JacobianAnomaly())
            .find(view, torch.ones(1, *GRID.shape), torch.Generator())[ball(6.0)]
            .max()
        )
        == 0
    )


def test_a_registration_finds_the_disc_and_the_cut() -> None:
    shapes, absent = cut_c_pair()
    registration = Registration(
        FreeForm(12.0), (MSE(30.0),), optimiser=Adam(0.5), scales=(Scale(4, 25), Scale(2, 25))
    )
    result = NonCorrespondence(registration, mask=DetectedMask(LiWyatt(math.inf))).run(
        ImagePair(shapes.fixed, shapes.moving)
    )
    assert result.change is not None
    found, truth = result.change.non_correspondence.data > 0.5, absent.data > 0
    assert float(found[truth].float().mean()) > 0.6
    assert float(found[~truth].float().mean()) < 0.05


def test_the_true_map_shows_the_disc_and_the_cut() -> None:
    shapes, absent = cut_c_pair()
    found = (
        LiWyatt(math.inf)(
            align(
                ImagePair(shapes.fixed, shapes.moving),
                DenseDisplacement(shapes.displacement, shapes.fixed.grid),
                None,
                1.5,
            )
        ).data
        > 0.5
    )
    truth = absent.data > 0
    assert 2 * float((found & truth).sum()) / float(found.sum() + truth.sum()) > 0.8
