"""Brain phantoms with a lesion: outside it the truth explains the fixed image, inside it nothing
does, and the way back undoes the way there.
"""

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_dilation
from torch import Tensor
from worlds import oblique

from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.evaluation import jacobian_determinant_of_field
from inrreg.ops.sampling import nearest
from inrreg.phantoms import (
    Brain,
    Healthy,
    PathologyPair,
    Resection,
    Tumour,
    pathology_pair,
    synthetic_brain,
    t2_like,
)
from inrreg.phantoms.scanner import NO_SCANNER
from inrreg.transforms import Translation
from inrreg.transforms.warp import warp

ROOT = Path(__file__).parents[2]
GRID = Grid.from_spacing(
    (36, 40, 32), (3.3, 3.0, 3.7), origin=(-31.0, 47.0, 112.0), direction=oblique(3)
)
SMALL = {"spacing": 3.3, "near": 12, "far": 20}
KINDS = {
    "resection": Resection(volume_cm3=16.0),
    "tumour": Tumour(volume_cm3=16.0),
    "healthy": Healthy(),
}


@pytest.fixture(scope="module")
def brain() -> Brain:
    return synthetic_brain(GRID)


@pytest.fixture(scope="module")
def pairs(brain: Brain) -> dict[str, PathologyPair]:
    """One of each kind, seen without noise."""
    return {
        kind: pathology_pair(brain, pathology, seed=3, scanner=NO_SCANNER, **SMALL)
        for kind, pathology in KINDS.items()
    }


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def pair(kind: str, pairs: dict[str, PathologyPair]) -> PathologyPair:
    return pairs[kind]


def inner_tissue(pair: PathologyPair) -> Tensor:
    """Fixed voxels of the brain that neither the lesion's blurred edge nor oedema touches."""
    lesion = torch.from_numpy(binary_dilation(pair.lesion.numpy() > 0, iterations=2))
    return (pair.fixed.mask.data[0] > 0) & ~lesion & (pair.oedema.data[0] == 0)


def rms(values: Tensor) -> float:
    return float(values.square().mean().sqrt())


# --- the truth ------------------------------------------------------------------------------------


def test_outside_the_lesion_the_truth_explains_the_fixed_image(pair: PathologyPair) -> None:
    grid, chosen = pair.fixed.image.grid, inner_tissue(pair)
    explained, unmoved = (
        warp(pair.moving.image, transform, grid, method="cubic").data[0]
        for transform in (pair.truth, Translation.by([0.0, 0.0, 0.0]))
    )
    fixed = pair.fixed.image.data[0]
    assert rms((explained - fixed)[chosen]) < 0.1 * rms((unmoved - fixed)[chosen])
    # cubic interpolation of folds about two voxels wide
    assert float((explained - fixed)[chosen].abs().quantile(0.95)) < 0.02 * float(fixed.max())


def test_labels_follow_the_truth(pair: PathologyPair, brain: Brain) -> None:
    there = pair.truth(pair.fixed.image.grid.points(torch.float64)).detach()
    expected = torch.where(pair.lesion.data > 0, 0, nearest(brain.labels, there, outside=0))
    assert torch.equal(pair.fixed.labels.data, expected)
    assert set(pair.moving.labels.data.unique().tolist()) == set(range(7))


def test_inside_the_lesion_nothing_explains_it(pairs: dict[str, PathologyPair]) -> None:
    for pair in (pairs["resection"], pairs["tumour"]):
        grid = pair.fixed.image.grid
        difference = (
            warp(pair.moving.image, pair.truth, grid, method="cubic").data - pair.fixed.image.data
        )[pair.fixed.absent.data > 0]
        assert float(difference.abs().median()) > 0.25


def test_landmarks_correspond(kind: str, pair: PathologyPair, brain: Brain) -> None:
    fixed, moving = pair.fixed.landmarks, pair.moving.landmarks
    assert fixed.labels == moving.labels
    torch.testing.assert_close(pair.truth(fixed.coords).detach(), moving.coords)
    assert torch.equal(
        nearest(pair.fixed.labels, fixed.coords)[0], nearest(brain.labels, moving.coords)[0]
    )
    assert int(nearest(pair.fixed.labels, fixed.coords).min()) > 0
    near = torch.tensor([name.startswith("near") for name in fixed.labels])
    if kind == "healthy":
        assert not bool(near.any())
        assert len(fixed) == 32
        return
    assert int(near.sum()) == 12
    assert int((~near).sum()) == 20
    lesion_points = pair.fixed.image.grid.points(torch.float64)[pair.lesion.data[0] > 0]
    distance = torch.cdist(fixed.coords, lesion_points).amin(1)
    assert float(distance[near].min()) >= 3.0
    assert float(distance[near].max()) <= 10.0
    assert float(distance[~near].min()) >= 20.0


def test_the_truth_does_not_fold_and_moves_as_asked(kind: str, pair: PathologyPair) -> None:
    grid, tissue = (
        pair.fixed.image.grid,
        (pair.fixed.mask.data[0] > 0) & (pair.fixed.absent.data[0] == 0),
    )
    u = pair.truth.vectors.detach()
    assert float(jacobian_determinant_of_field(u, grid)[tissue].min()) > 0.05
    assert float(u[tissue].norm(dim=-1).mean()) == pytest.approx(4.0, abs=1.0)


def test_the_inverse_undoes_the_truth(pair: PathologyPair) -> None:
    for each in (pair, pair.swapped()):
        residual = each.inverse_residual()
        assert float(residual.mean()) < 0.02
        # beside a tumour, where tissue is crushed to less than a voxel
        assert float(residual.max()) < 0.6


# --- what is absent -------------------------------------------------------------------------------


def test_masks_say_what_has_no_counterpart(kind: str, pair: PathologyPair) -> None:
    for view in (pair.fixed, pair.moving):
        assert not bool((view.absent.data > view.mask.data).any()), "a lesion lies within the brain"
        assert not bool((view.labels.data[view.absent.data > 0] > 0).any())
        assert bool((view.absent.data > 0).any()) == (kind != "healthy")
    assert torch.equal(pair.fixed.absent.data > 0, pair.lesion.data > 0)
    assert (
        set(pair.lesion.data.unique().tolist())
        == {"resection": {0, 1}, "tumour": {0, 1, 2}, "healthy": {0}}[kind]
    )
    assert bool((pair.oedema.data > 0).any()) == (kind == "tumour")
    assert not bool(((pair.oedema.data > 0) & (pair.fixed.absent.data > 0)).any()), (
        "swollen tissue has a counterpart"
    )


def test_the_truth_carries_what_is_absent_onto_what_is_absent(
    pairs: dict[str, PathologyPair],
) -> None:
    for pair in (pairs["resection"], pairs["tumour"]):
        carried = warp(pair.moving.absent, pair.truth, pair.fixed.image.grid).data > 0
        fixed = pair.fixed.absent.data > 0
        assert 2 * int((carried & fixed).sum()) / int(carried.sum() + fixed.sum()) > 0.8


def test_a_cavity_is_smaller_than_what_was_removed_and_a_tumour_larger_than_its_seed(
    brain: Brain,
) -> None:
    for pathology, sign in ((Resection(16.0, collapse=(0.15, 0.15)), 1), (Tumour(8.0), -1)):
        pair = pathology_pair(brain, pathology, seed=5, motion_mm=0.0, scanner=NO_SCANNER, **SMALL)
        fixed, moving = (
            float(view.absent.data.sum()) * float(np.prod(view.image.grid.spacing))
            for view in (pair.fixed, pair.moving)
        )
        assert sign * (moving - fixed) > 0.2 * fixed


def test_swapping_is_registering_the_other_way(pair: PathologyPair) -> None:
    swapped = pair.swapped()
    assert swapped.fixed is pair.moving
    assert swapped.moving is pair.fixed
    error = (
        swapped.truth(swapped.fixed.landmarks.coords).detach() - swapped.moving.landmarks.coords
    ).norm(dim=1)
    assert float(error.mean()) < 0.05
    assert float(error.max()) < 0.6  # as the inverse
    again = swapped.swapped()
    assert again.truth is pair.truth
    assert again.inverse is pair.inverse


# --- seeds and contrasts --------------------------------------------------------------------------


def test_a_second_contrast_shows_the_same_lesion(
    brain: Brain, pairs: dict[str, PathologyPair]
) -> None:
    first, second = (
        pairs["tumour"],
        pathology_pair(t2_like(brain), KINDS["tumour"], seed=3, scanner=NO_SCANNER, **SMALL),
    )
    assert torch.equal(first.truth.vectors, second.truth.vectors)
    assert torch.equal(first.lesion.data, second.lesion.data)
    assert torch.equal(first.moving.landmarks.coords, second.moving.landmarks.coords)
    white, core = first.fixed.labels.data == 1, first.lesion.data == 1
    assert first.fixed.image.data[core].mean() < first.fixed.image.data[white].mean()
    assert second.fixed.image.data[core].mean() > second.fixed.image.data[white].mean()


def test_seeds_decide_everything(brain: Brain) -> None:
    one, again, other = (
        pathology_pair(
            brain, Resection(16.0), seed=seed, spacing=5.0, motion_mm=2.0, near=4, far=10
        )
        for seed in (0, 0, 1)
    )
    for a, b in zip((one.fixed, one.moving), (again.fixed, again.moving), strict=True):
        assert all(
            torch.equal(getattr(a, name).data, getattr(b, name).data)
            for name in ("image", "mask", "labels", "absent")
        )
        assert torch.equal(a.landmarks.coords, b.landmarks.coords)
    assert torch.equal(one.inverse.vectors, again.inverse.vectors)
    assert not torch.equal(one.truth.vectors, other.truth.vectors)
    assert not torch.equal(one.lesion.data, other.lesion.data)
    assert not torch.equal(one.moving.image.data, other.moving.image.data), (
        "each scan has noise of its own"
    )


def test_without_lesion_and_motion_the_truth_is_the_identity(brain: Brain) -> None:
    still = pathology_pair(brain, Healthy(), motion_mm=0.0, **SMALL)
    assert float(still.truth.vectors.detach().abs().max()) < 1e-9
    assert torch.equal(still.fixed.landmarks.coords, still.moving.landmarks.coords)


def test_grids_differ(pair: PathologyPair) -> None:
    assert not pair.fixed.image.grid.same_as(pair.moving.image.grid)
    assert pair.moving.image.grid.aligned_with(GRID)


def test_bad_input_is_refused(brain: Brain) -> None:
    with pytest.raises(InputError, match="-1 mm is not possible"):
        pathology_pair(brain, Healthy(), motion_mm=-1.0, **SMALL)
    with pytest.raises(InputError, match="ask for fewer"):
        pathology_pair(brain, Healthy(), spacing=6.0, motion_mm=0.0, near=0, far=100_000)


# --- the brains of the study ----------------------------------------------------------------------


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module("experiments.pathology_seeds")


def test_every_seed_has_its_fingerprint(seeds: ModuleType) -> None:
    meant = json.loads(seeds.FINGERPRINTS.read_text())
    wanted = [
        seed
        for table in (seeds.TEST, seeds.DEVELOPMENT)
        for group in table.values()
        for seed in group
    ]
    assert len(set(wanted)) == len(wanted)
    assert set(meant) == {str(seed) for seed in wanted}
    assert not any(seeds.as_meant(meant[a], meant[b]) for a in meant for b in meant if a != b)
    assert {kind: len(group) for kind, group in seeds.TEST.items()} == {
        "resection": 10,
        "tumour": 10,
        "healthy": 5,
        "resection 2-D": 10,
        "tumour 2-D": 10,
    }


def test_fingerprints_tell_pairs_apart(seeds: ModuleType, pairs: dict[str, PathologyPair]) -> None:
    prints = {kind: seeds.fingerprint(pair) for kind, pair in pairs.items()}
    assert {(a, b) for a in prints for b in prints if seeds.as_meant(prints[a], prints[b])} == {
        (kind, kind) for kind in prints
    }
    assert seeds.as_meant([1.0001 * value for value in prints["tumour"]], prints["tumour"])
    assert not seeds.as_meant(prints["tumour"], None)
    found = seeds.acceptance(pairs["tumour"])
    assert seeds.acceptable("tumour", found) == (
        found["residual_max_mm"] < seeds.LARGEST_RESIDUAL_MM
    )
    assert not seeds.acceptable("healthy", found)
    assert not seeds.acceptable("tumour", {**found, "lesion_cm3": 41.0})
    assert not seeds.acceptable("tumour", {**found, "det_min": -0.1})


def test_a_pair_of_real_brains_is_acceptable(data_dir: Path, seeds: ModuleType) -> None:
    pair = seeds.phantom("resection", seeds.DEVELOPMENT["resection"][0])
    brain = seeds.oasis_brain("fixed")
    assert seeds.acceptable("resection", seeds.acceptance(pair))
    assert seeds.as_meant(
        seeds.fingerprint(pair),
        json.loads(seeds.FINGERPRINTS.read_text())[str(seeds.DEVELOPMENT["resection"][0])],
    )
    assert pair.moving.image.grid.aligned_with(brain.image.grid)
    up = pair.fixed.image.grid.direction @ np.array([0.0, -1.0, 0.0])
    assert up == pytest.approx(np.array([0.0, 0.0, 1.0])), "the header's second axis runs downwards"
    volume = (
        float(pair.moving.mask.data.sum()) * float(np.prod(pair.moving.image.grid.spacing)) / 1000
    )
    assert 1300 < volume < 1800  # cm3
    lesion = pair.fixed.image.data[pair.lesion.data > 0].mean()
    assert float(lesion) < 0.5 * brain.mean(3)
