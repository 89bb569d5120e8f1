"""Matched points of a discrete search: kept with the result, written as a table of pairs, and taken
as guides or as a weighted term.
"""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from roof_cases import CONTINUOUS, Ending, landmarks_of, pair_2d
from steps import geometry, still, voxels_of
from torch import Tensor
from worlds import oblique_grid

import inrreg
from graphreg import Foerstner, GraphRegistration, Labels, Search
from inrreg.app.result import Result
from inrreg.core.errors import OutputError
from inrreg.core.image import Points
from inrreg.core.image_pair import Correspondences
from inrreg.io import read_point_pairs, write_correspondences
from inrreg.objective.features import RobustWindow
from inrreg.phantoms import PhantomPair, blob_pair
from inrreg.presets import Preset
from inrreg.similarity import MSE, LandmarkDistance
from inrreg.stages.gradient_registration import Scale
from inrreg.stages.initial_translation import InitialTranslation

COARSE = GraphRegistration(
    (Search(Labels(24.0, 6.0), Foerstner(400, 9.0, 4.0, 4.0), spacing_mm=5.0),), lattice_mm=15.0
)
FINE = GraphRegistration(
    (Search(Labels(6.0, 2.0), Foerstner(400, 8.0, 3.0, 3.0), spacing_mm=4.0),),
    lattice_mm=15.0,
    name="fine",
)
MATCHES = Preset("matches", "", RobustWindow(), (InitialTranslation(), COARSE))
WEAK = replace(CONTINUOUS, similarities=(MSE(weight=1.0),), scales=(Scale(8, 30),))
"""A fit that guides can pull."""
STILL = Preset("still", "", RobustWindow(), (Ending(),))


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return blob_pair((30, 27, 24), spacing=6.0, shift_mm=12.0, n_blobs=300, seed=1)


@pytest.fixture(scope="module")
def result(pair: PhantomPair) -> Result:
    return inrreg.register(
        pair.fixed,
        pair.moving,
        preset=MATCHES,
        fixed_mask=pair.fixed_mask,
        landmarks=landmarks_of(pair),
    )


@pytest.fixture(scope="module")
def free(pair: PhantomPair) -> Result:
    """The fit without guides."""
    return inrreg.register(
        pair.fixed,
        pair.moving,
        preset=Preset("fit", "", RobustWindow(), (WEAK,)),
        fixed_mask=pair.fixed_mask,
        landmarks=landmarks_of(pair),
    )


@pytest.fixture(scope="module")
def folder(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return result.save(tmp_path_factory.mktemp("saved") / "result")


class TestTheTable:
    def test_holds_every_digit(self, result: Result, folder: Path) -> None:
        kept = result.correspondences
        assert kept is not None
        with (folder / "correspondences.csv").open(newline="") as stream:
            header, *rows = csv.reader(stream)
        assert header == [
            "label",
            "fixed_x",
            "fixed_y",
            "fixed_z",
            "moving_x",
            "moving_y",
            "moving_z",
            "confidence",
        ]
        assert [row[0] for row in rows] == list(kept.fixed.labels)
        numbers = torch.tensor(np.array([row[1:] for row in rows], dtype=float))
        assert torch.equal(numbers[:, :3], kept.fixed.coords)
        assert torch.equal(numbers[:, 3:6], kept.moving.coords)
        assert torch.equal(numbers[:, 6].float(), kept.confidence)
        assert len(rows) > 30

    def test_is_read_as_pairs(self, result: Result, folder: Path) -> None:
        fixed, moving = read_point_pairs(folder / "correspondences.csv")
        assert result.correspondences is not None
        assert torch.equal(fixed.coords, result.correspondences.fixed.coords)
        assert torch.equal(moving.coords, result.correspondences.moving.coords)

    def test_guides_another_registration(
        self, pair: PhantomPair, free: Result, folder: Path
    ) -> None:
        fit = Preset("fit", "", RobustWindow(), (WEAK,))
        guided = inrreg.register(
            pair.fixed,
            pair.moving,
            preset=fit,
            fixed_mask=pair.fixed_mask,
            landmarks=landmarks_of(pair),
            guide_landmarks=folder / "correspondences.csv",
        )
        # measured: 2.9 and 3.8 mm
        assert guided.metrics.landmarks.mean_mm < 0.85 * free.metrics.landmarks.mean_mm

    def test_of_two_dimensions(self, tmp_path: Path) -> None:
        points = [
            Points(torch.tensor([[1.0, 2.0], [3.0, 4.5]], dtype=torch.float64) + i, ("a", "b"))
            for i in range(2)
        ]
        write_correspondences(
            Correspondences(*points, torch.tensor([0.25, 1.0])), tmp_path / "flat.csv"
        )
        assert (
            (tmp_path / "flat.csv").read_text()
            == "label,fixed_x,fixed_y,moving_x,moving_y,confidence\n"  # one row a match
            "a,1.0,2.0,2.0,3.0,0.25\nb,3.0,4.5,4.0,5.5,1.0\n"
        )
        fixed, moving = read_point_pairs(tmp_path / "flat.csv")
        assert torch.equal(fixed.coords, points[0].coords)
        assert torch.equal(moving.coords, points[1].coords)

    def test_cannot_be_written_where_there_is_no_folder(
        self, result: Result, tmp_path: Path
    ) -> None:
        assert result.correspondences is not None
        with pytest.raises(
            OutputError,
            match=(
                r"c.csv could not be written \(No such file or directory\); check that its folder"
                r" exists and has room"
            ),
        ):
            write_correspondences(result.correspondences, tmp_path / "missing" / "c.csv")


def test_the_keypoints_are_matched_about_right(pair: PhantomPair, result: Result) -> None:
    kept = result.correspondences
    assert kept is not None
    off = (pair.truth(kept.fixed.coords) - kept.moving.coords).norm(dim=1)
    sure = kept.confidence >= kept.confidence.median()
    assert float(off[sure].median()) < 4.0  # labels are 6 mm apart
    assert kept.confidence.device.type == "cpu"


def test_those_of_the_last_discrete_stage_are_kept(pair: PhantomPair, result: Result) -> None:
    two = replace(MATCHES, stages=(InitialTranslation(), COARSE, FINE, Ending()))
    later = inrreg.register(pair.fixed, pair.moving, preset=two, fixed_mask=pair.fixed_mask)
    alone = inrreg.register(
        pair.fixed,
        pair.moving,
        preset=replace(MATCHES, stages=(FINE,)),
        fixed_mask=pair.fixed_mask,
        initial=result.transform,
    )
    assert later.correspondences is not None
    assert alone.correspondences is not None
    assert result.correspondences is not None
    assert torch.equal(later.correspondences.fixed.coords, alone.correspondences.fixed.coords)
    assert torch.equal(later.correspondences.moving.coords, alone.correspondences.moving.coords)
    assert later.correspondences.fixed.coords.shape != result.correspondences.fixed.coords.shape


def test_the_table_comes_and_goes_with_the_search(tmp_path: Path) -> None:
    """Saved over again in two dimensions: a table stays a table, and goes where the new result has
    none.
    """
    flat = pair_2d()
    searching = replace(COARSE, searches=(Search(Labels(12.0, 3.0), Foerstner(200, 5.0)),))
    found, still = (
        inrreg.register(flat.fixed, flat.moving, preset=preset)
        for preset in (replace(MATCHES, stages=(searching,)), STILL)
    )
    assert still.correspondences is None
    folder = found.save(tmp_path / "result")
    first = (folder / "correspondences.csv").read_bytes()
    fixed, moving = read_point_pairs(folder / "correspondences.csv")
    assert fixed.coords.shape == moving.coords.shape == (len(fixed), 2)
    assert not (still.save(folder) / "correspondences.csv").exists()
    assert json.loads((folder / "config.json").read_text())["preset"]["name"] == "still"
    assert (found.save(folder) / "correspondences.csv").read_bytes() == first
    assert [path.name for path in tmp_path.iterdir()] == ["result"]


# --- as a term ------------------------------------------------------------------------------------

GRID = oblique_grid(3)
OFF = torch.tensor([0.5, 3.0, 40.0], dtype=torch.float64)
FIXED = Points.from_array([[-30.0, 50.0, 115.0], [-28.0, 52.0, 118.0], [-27.0, 49.0, 121.0]])
MOVING = Points(
    FIXED.coords + OFF[:, None] * torch.tensor([2.0, -1.0, 2.0], dtype=torch.float64) / 3
)
LOSSES = 2.0 * ((OFF**2 + 4.0).sqrt() - 2.0)
"""Pseudo-Huber with 2 mm."""


def distance(confidence: Tensor | None, fixed: Points = FIXED, moving: Points = MOVING) -> float:
    return float(
        LandmarkDistance(fixed, moving, confidence=confidence)(geometry(still(3), voxels_of(GRID)))
    )


class TestConfidence:
    def test_makes_a_weighted_mean(self) -> None:
        trust = torch.tensor([0.9, 0.5, 0.1])
        assert distance(trust) == pytest.approx(float((trust * LOSSES).sum() / 1.5), rel=1e-6)
        # of a mean only the shares count
        assert distance(0.2 * trust) == pytest.approx(distance(trust), rel=1e-6)

    def test_alike_for_all_it_is_the_plain_mean(self) -> None:
        assert distance(torch.full((3,), 0.3)) == pytest.approx(distance(None), rel=1e-6)
        assert distance(None) == pytest.approx(float(LOSSES.mean()), rel=1e-6)

    def test_of_zero_leaves_a_pair_out(self) -> None:
        assert distance(torch.tensor([1.0, 0.5, 0.0])) == pytest.approx(
            distance(torch.tensor([1.0, 0.5]), Points(FIXED.coords[:2]), Points(MOVING.coords[:2])),
            rel=1e-9,
        )
        assert distance(torch.tensor([1.0, 0.5, 0.0])) != pytest.approx(
            distance(torch.tensor([1.0, 0.5, 0.5])), rel=0.1
        )

    def test_of_zero_for_all_is_no_term(self) -> None:
        assert distance(torch.zeros(3)) == 0


def test_a_term_of_correspondences_pulls(pair: PhantomPair, result: Result, free: Result) -> None:
    kept = result.correspondences
    assert kept is not None
    term = LandmarkDistance(kept.fixed, kept.moving, confidence=kept.confidence)
    fit = Preset(
        "fit", "", RobustWindow(), (replace(WEAK, similarities=(*WEAK.similarities, term)),)
    )
    pulled = inrreg.register(
        pair.fixed,
        pair.moving,
        preset=fit,
        fixed_mask=pair.fixed_mask,
        landmarks=landmarks_of(pair),
    )
    # measured: 2.9 and 3.8 mm
    assert pulled.metrics.landmarks.mean_mm < 0.85 * free.metrics.landmarks.mean_mm
