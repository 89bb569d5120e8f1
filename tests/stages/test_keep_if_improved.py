"""A guarded stage: kept where it makes the images clearly more alike, else as if it had not run."""

from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from inrreg.core.image_pair import ImagePair
from inrreg.objective.samplers import Patches
from inrreg.objective.step import Step
from inrreg.ops.sampling import linear
from inrreg.optimisation import Adam
from inrreg.optimisation.stage_result import Record
from inrreg.phantoms import blob_pair
from inrreg.similarity import LNCC, MSE, NCC
from inrreg.stages.gradient_registration import Registration, Scale
from inrreg.stages.keep_if_improved import KeepIfImproved
from inrreg.transforms import LinearModel, Translation

PHANTOM = blob_pair((40, 36), spacing=(3.0, 3.5), shift_mm=4.0, n_blobs=30, seed=2)
PAIR = ImagePair(PHANTOM.fixed, PHANTOM.moving, PHANTOM.fixed_mask)
POINTS = PHANTOM.fixed.grid.points(torch.float64)
HELPFUL = Registration(
    LinearModel("affine"), (NCC(),), (), Adam(1.0), (Scale(8, 30), Scale(4, 10)), name="affine"
)


@dataclass(frozen=True)
class Wind:
    """Pushes everything 15 mm along x."""

    weight: float = 10.0
    name: str = "wind"

    def __call__(self, step: Step) -> Tensor:
        return (step.displacement[..., 0] - 15.0).square().mean()


HARMFUL = replace(HELPFUL, penalties=(Wind(),))


def test_what_helps_is_kept() -> None:
    plain, guarded = HELPFUL.run(PAIR), KeepIfImproved(HELPFUL).run(PAIR)
    assert guarded.kept
    assert guarded.notes["ncc_after"] < 0.9 * guarded.notes["ncc_before"]
    assert torch.equal(guarded.transform(POINTS), plain.transform(POINTS))
    assert guarded.history == plain.history
    assert guarded.outcome is plain.outcome


def test_what_harms_is_not_kept() -> None:
    result = KeepIfImproved(HARMFUL).run(PAIR)
    assert not result.kept
    assert result.notes["ncc_after"] > result.notes["ncc_before"]
    assert torch.equal(result.transform(POINTS), POINTS)
    assert not any(p.requires_grad for p in result.transform.parameters())
    assert len(result.history) > 0


def test_what_was_there_before_is_given_back() -> None:
    initial = Translation.by([2.0, -1.0]).requires_grad_(False)
    refused = KeepIfImproved(HARMFUL).run(PAIR, initial)
    assert not refused.kept
    assert torch.equal(refused.transform(POINTS), initial(POINTS))
    kept = KeepIfImproved(HELPFUL).run(PAIR, initial)
    assert kept.kept
    assert torch.equal(kept.transform(POINTS), HELPFUL.run(PAIR, initial).transform(POINTS))


@pytest.mark.parametrize(("least_gain", "kept"), [(0.0, True), (0.3, True), (0.999, False)])
def test_the_least_gain_decides(least_gain: float, kept: bool) -> None:
    result = KeepIfImproved(HELPFUL, least_gain).run(PAIR)
    notes = result.notes
    assert result.kept is kept
    assert 1 - 0.999 < notes["ncc_after"] / notes["ncc_before"] < 1 - 0.3


def test_both_costs_are_those_of_the_finest_level() -> None:
    """Judged on the whole grid, whatever the stage samples."""
    stage = replace(
        HELPFUL, similarities=(MSE(),), sampler=Patches(50, 3), scales=(Scale(8, 5), Scale(1, 5))
    )
    result = KeepIfImproved(stage).run(PAIR)
    mask = PHANTOM.fixed_mask.data[0] > 0
    for transform, name in (
        (Translation.by([0.0, 0.0]), "mse_before"),
        (stage.run(PAIR).transform, "mse_after"),
    ):
        expected = (
            (linear(PHANTOM.moving, transform(POINTS[mask]))[0] - PHANTOM.fixed.data[0][mask])
            .square()
            .mean()
        )
        # single precision
        assert result.notes[name] == pytest.approx(float(expected.detach()), rel=1e-3)


def test_the_first_similarity_judges() -> None:
    stage = replace(HELPFUL, similarities=(LNCC(20.0), NCC()))
    assert set(KeepIfImproved(stage).run(PAIR).notes) == {"lncc_before", "lncc_after"}


def test_it_is_a_stage_of_the_same_name() -> None:
    heard: list[Record] = []
    guarded = KeepIfImproved(HELPFUL)
    result = guarded.run(PAIR, None, seed=0, progress=heard.append)
    assert guarded.name == result.name == "affine"
    assert heard == result.history
