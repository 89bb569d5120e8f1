"""register(): the same field whatever the input comes as, landmarks that only judge, an orderly
end, and what it measures.
"""

import copy
import json
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
import torch
from roof_cases import CONTINUOUS, TINY, Ending, interrupting, landmarks_of, pair_2d, pair_3d, saved

import inrreg
from inrreg.app.metrics import evenly, final_outcome, inverse_residual, levels_of, strict
from inrreg.app.register import register
from inrreg.app.result import Result
from inrreg.app.typed_metrics import Metrics
from inrreg.core.grid import Grid
from inrreg.core.image import Image, LabelImage, Points
from inrreg.objective.features import RobustWindow
from inrreg.optimisation import Outcome
from inrreg.optimisation.stage_result import Record, StageResult
from inrreg.phantoms import PhantomPair
from inrreg.presets import Preset
from inrreg.stages.initial_translation import InitialTranslation
from inrreg.transforms import DenseDisplacement, Translation, identity

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return pair_3d()


@pytest.fixture(scope="module")
def folder(pair: PhantomPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(pair, tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def result(pair: PhantomPair) -> Result:
    return register(
        pair.fixed,
        pair.moving,
        preset=TINY,
        fixed_mask=pair.fixed_mask,
        landmarks=landmarks_of(pair),
    )


def field(result: Result) -> torch.Tensor:
    return result.transform.displacement_on(result.grid)


class TestTheField:
    def test_comes_nearer_to_the_truth(self, result: Result) -> None:
        errors = result.metrics.to_json()["landmarks"]["all"]
        assert errors["initial_mean_mm"] == pytest.approx(6.0, abs=1e-6)
        assert errors["mean_mm"] < 3.0  # 2.9 mm after the best translation alone
        assert result.outcome.usable

    def test_is_the_same_when_run_again(self, pair: PhantomPair, result: Result) -> None:
        again = register(
            pair.fixed,
            pair.moving,
            preset=TINY,
            fixed_mask=pair.fixed_mask,
            landmarks=landmarks_of(pair),
        )
        assert torch.equal(field(again), field(result))
        assert [record.cost for record in again.history] == [
            record.cost for record in result.history
        ]

    def test_does_not_depend_on_landmarks_that_judge(
        self, pair: PhantomPair, result: Result
    ) -> None:
        fixed, moving = landmarks_of(pair)
        wrong = (fixed, replace(moving, coords=moving.coords.flip(0)))
        for landmarks in (None, wrong):
            other = register(
                pair.fixed,
                pair.moving,
                preset=TINY,
                fixed_mask=pair.fixed_mask,
                landmarks=landmarks,
            )
            assert torch.equal(field(other), field(result))
        assert other.metrics.landmarks.mean_mm > 2 * result.metrics.landmarks.mean_mm

    def test_follows_landmarks_that_guide(self, pair: PhantomPair, result: Result) -> None:
        guided = register(
            pair.fixed,
            pair.moving,
            preset=TINY,
            fixed_mask=pair.fixed_mask,
            guide_landmarks=landmarks_of(pair),
            landmarks=landmarks_of(pair),
        )
        assert not torch.equal(field(guided), field(result))
        assert guided.metrics.landmarks.mean_mm < result.metrics.landmarks.mean_mm

    def test_is_the_same_from_paths_and_other_libraries_images(
        self, pair: PhantomPair, folder: Path
    ) -> None:
        files = [
            folder / f"{name}.nii.gz" for name in ("fixed", "moving", "fixed_mask", "moving_mask")
        ]
        kinds: dict[str, list[Any]] = {
            "paths": files,
            "text": [str(file) for file in files],
            "nibabel": [nib.load(file) for file in files],
            "SimpleITK": [SimpleITK.ReadImage(str(file)) for file in files],
            "images": [inrreg.io.read_image(file) for file in files],
        }
        fields = {
            kind: field(
                register(given[0], given[1], preset=TINY, fixed_mask=given[2], moving_mask=given[3])
            )
            for kind, given in kinds.items()
        }
        for kind in ("text", "nibabel", "images"):
            assert torch.equal(fields[kind], fields["paths"]), kind
        # ITK keeps origin, spacing and direction apart: the affine is put together again to one
        # unit in the last place of single precision
        # headers differ in the last digits, and optimisation carries that on
        torch.testing.assert_close(fields["SimpleITK"], fields["paths"], atol=0.01, rtol=0)

    def test_of_an_image_in_double_precision_is_the_same(
        self, pair: PhantomPair, result: Result
    ) -> None:
        double = [
            Image(image.data.double(), image.grid, "scan") for image in (pair.fixed, pair.moving)
        ]
        assert torch.equal(
            field(register(*double, preset=TINY, fixed_mask=pair.fixed_mask)), field(result)
        )

    def test_improves_on_an_initial_transform(self, pair: PhantomPair) -> None:
        start = DenseDisplacement(0.5 * pair.displacement, pair.fixed.grid)
        before = copy.deepcopy(start.state_dict())
        landmarks = landmarks_of(pair)
        better = register(
            pair.fixed,
            pair.moving,
            preset=Preset("refine", "", RobustWindow(), (CONTINUOUS,)),
            initial=start,
            landmarks=landmarks,
        )
        # half of the 6 mm was left
        assert better.metrics.landmarks.mean_mm < 0.9 * 3.0
        assert all(torch.equal(value, before[name]) for name, value in start.state_dict().items())
        assert start.vectors.requires_grad  # the caller's transform is not touched
        assert better.config["initial"] == {
            "type": "DenseDisplacement",
            "sha256": better.config["initial"]["sha256"],
        }

    def test_keeps_to_the_initial_transform_where_no_stage_moves(self, pair: PhantomPair) -> None:
        still = register(
            pair.fixed,
            pair.moving,
            preset=Preset("still", "", RobustWindow(), (Ending(),)),
            initial=Translation.by([1.0, -2.0, 3.0]),
        )
        torch.testing.assert_close(
            still.transform(torch.zeros(1, 3)), torch.tensor([[1.0, -2.0, 3.0]])
        )


def test_two_dimensions() -> None:
    pair = pair_2d()
    result = register(pair.fixed, pair.moving, preset=TINY, landmarks=landmarks_of(pair))
    assert field(result).shape == (36, 32, 2)
    assert result.metrics.landmarks.mean_mm < 4.0  # of 6 mm


def test_threads_are_given_back(pair: PhantomPair) -> None:
    before = torch.get_num_threads()
    result = register(
        pair.fixed,
        pair.moving,
        preset=Preset("still", "", RobustWindow(), (Ending(),)),
        threads=before + 1,
    )
    assert torch.get_num_threads() == before
    assert result.config["threads"] == before + 1


@pytest.fixture(scope="module")
def apart(pair: PhantomPair) -> Result:
    """The result of a moving image a metre away."""
    away = np.array([400.0, -300.0, 900.0])
    affine = pair.moving.grid.affine.copy()
    affine[:3, 3] += away
    fixed, points = landmarks_of(pair)
    return register(
        pair.fixed,
        Image(pair.moving.data, Grid(pair.moving.grid.shape, affine), "moving"),
        preset=TINY,
        landmarks=(fixed, replace(points, coords=points.coords + torch.from_numpy(away))),
    )


class TestImagesThatDoNotOverlap:
    def test_are_brought_together(self, apart: Result) -> None:
        errors = apart.metrics.to_json()["landmarks"]["all"]
        assert errors["initial_mean_mm"] > 1000
        assert errors["mean_mm"] < 4.0

    def test_are_warned_of_and_noted(self, apart: Result) -> None:
        assert any("do not overlap in world space" in note for note in apart.metrics.notes)

    def test_overlapping_ones_have_no_notes(self, result: Result) -> None:
        assert result.metrics.notes == ()


class TestLandmarks:
    @pytest.mark.parametrize("kind", ["points", "arrays", "lists", "one table", "two tables"])
    def test_come_in_many_forms(
        self, kind: str, pair: PhantomPair, folder: Path, tmp_path: Path, result: Result
    ) -> None:
        fixed, moving = landmarks_of(pair)
        tables = (tmp_path / "fixed.csv", tmp_path / "moving.csv")
        for points, path in zip((fixed, moving), tables, strict=True):
            inrreg.io.write_points(points, path)
        given: dict[str, Any] = {
            "points": (fixed, moving),
            "arrays": (fixed.coords.numpy(), moving.coords.numpy()),
            "lists": [fixed.coords.tolist(), moving.coords.tolist()],
            "one table": folder / "landmarks.csv",
            "two tables": tables,
        }
        job = inrreg.app.register.prepare(
            pair.fixed, pair.moving, preset=TINY, landmarks=given[kind]
        )
        assert job.landmarks is not None
        torch.testing.assert_close(job.landmarks[0].coords, fixed.coords)
        torch.testing.assert_close(job.landmarks[1].coords, moving.coords)

    def test_are_paired_by_their_labels(self, pair: PhantomPair, result: Result) -> None:
        fixed, moving = landmarks_of(pair)
        turned = Points(moving.coords.flip(0), moving.labels[::-1], "moving")
        job = inrreg.app.register.prepare(
            pair.fixed, pair.moving, preset=TINY, landmarks=(fixed, turned)
        )
        assert job.landmarks is not None
        assert torch.equal(job.landmarks[1].coords, moving.coords)

    def test_with_other_labels_are_paired_in_order_with_a_warning(self, pair: PhantomPair) -> None:
        fixed, moving = landmarks_of(pair)
        renamed = Points(moving.coords, tuple(f"Z{label}" for label in moving.labels), "moving")
        still = Preset("still", "", RobustWindow(), (Ending(),))
        result = register(pair.fixed, pair.moving, preset=still, landmarks=(fixed, renamed))
        assert result.metrics.landmarks.mean_mm == pytest.approx(6.0, abs=1e-6)
        assert any("do not have the same labels" in note for note in result.metrics.notes)


class TestAnEarlyEnd:
    """An interrupt or a cost that is not finite keeps what was found until then."""

    @pytest.mark.parametrize("after", [1, 5, 17])
    def test_an_interrupt_keeps_the_last_iteration(
        self, after: int, pair: PhantomPair, result: Result
    ) -> None:
        stopped = register(
            pair.fixed,
            pair.moving,
            preset=TINY,
            fixed_mask=pair.fixed_mask,
            progress=interrupting(after),
        )
        assert stopped.outcome is Outcome.INTERRUPTED
        assert stopped.metrics.outcome.name == "interrupted"
        assert [record.cost for record in stopped.history] == [
            record.cost for record in result.history[:after]
        ]
        at = stopped.history[-1]
        assert list(stopped.metrics.notes) == [
            f"stage continuous was stopped on request at {at.level_mm:g} mm; the map after"
            f" iteration {at.iteration + 1} of {at.iterations} is kept"
        ]
        assert float((field(stopped) - field(result)).abs().max()) > 1e-3  # not the whole way
        first, stage = stopped.metrics.to_json()["stages"]
        assert stage["outcome"] == "interrupted"
        moved = stopped.transform(pair.fixed_landmarks.coords) - pair.fixed_landmarks.coords
        # but away from the start
        assert (
            float(
                (moved - torch.tensor(first["translation_mm"], dtype=torch.float64))
                .norm(dim=1)
                .max()
            )
            > 1e-3
        )

    def test_an_interrupt_between_iterations_keeps_the_stage_before(
        self, pair: PhantomPair
    ) -> None:
        preset = Preset(
            "stopped",
            "",
            RobustWindow(),
            (
                InitialTranslation(),
                Ending(error=KeyboardInterrupt()),
                Ending(error=AssertionError("ran on")),
            ),
        )
        stopped = register(pair.fixed, pair.moving, preset=preset)
        assert stopped.outcome is Outcome.INTERRUPTED
        assert list(stopped.metrics.notes) == [
            "stage ending was stopped on request before its first iteration was done; what stage"
            " start found is kept"
        ]
        assert [stage["outcome"] for stage in stopped.metrics.to_json()["stages"]] == [
            "converged",
            "interrupted",
        ]

    def test_an_interrupt_before_anything_was_found_is_passed_on(self, pair: PhantomPair) -> None:
        with pytest.raises(KeyboardInterrupt):
            register(
                pair.fixed,
                pair.moving,
                preset=Preset("stopped", "", RobustWindow(), (Ending(error=KeyboardInterrupt()),)),
            )

    def test_a_cost_that_is_not_finite_ends_the_chain(self, pair: PhantomPair) -> None:
        preset = Preset(
            "broken",
            "",
            RobustWindow(),
            (
                InitialTranslation(),
                Ending(Outcome.NON_FINITE),
                Ending(error=AssertionError("ran on")),
            ),
        )
        broken = register(pair.fixed, pair.moving, preset=preset)
        assert broken.outcome is Outcome.NON_FINITE
        assert "met a cost that is not finite" in broken.metrics.notes[0]

    def test_no_memory_is_said(self, pair: PhantomPair) -> None:
        preset = Preset(
            "large",
            "",
            RobustWindow(),
            (
                Ending(
                    error=torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 90 GiB")
                ),
            ),
        )
        with pytest.raises(
            inrreg.RegistrationError,
            match=r"out of memory on cpu \(CUDA out of memory\.\); take a preset",
        ):
            register(pair.fixed, pair.moving, preset=preset)


class TestFinalOutcome:
    @pytest.mark.parametrize(
        ("stages", "folded", "expected"),
        [
            (
                [(Outcome.CONVERGED, True), (Outcome.ITERATION_LIMIT, True)],
                0.0,
                Outcome.ITERATION_LIMIT,
            ),
            ([(Outcome.ITERATION_LIMIT, True), (Outcome.CONVERGED, True)], 0.5, Outcome.CONVERGED),
            ([(Outcome.CONVERGED, True)], 0.51, Outcome.FOLDED),
            ([(Outcome.DIVERGED, True), (Outcome.CONVERGED, True)], 0.0, Outcome.DIVERGED),
            (
                [(Outcome.DIVERGED, False), (Outcome.CONVERGED, True)],
                0.0,
                Outcome.CONVERGED,
            ),
            (
                [(Outcome.CONVERGED, True), (Outcome.INTERRUPTED, False)],
                9.0,
                Outcome.INTERRUPTED,
            ),
        ],
    )
    def test_is_the_first_bad_one(
        self, stages: list[tuple[Outcome, bool]], folded: float, expected: Outcome
    ) -> None:
        results = [
            StageResult("stage", identity(3), outcome, 0.0, kept=kept) for outcome, kept in stages
        ]
        assert final_outcome(results, folded, 0.5) is expected

    def test_folding_beyond_the_limit_is_an_outcome(self, pair: PhantomPair) -> None:
        lines = pair.fixed.grid.points()[..., :1] / 2.0
        fold = DenseDisplacement(
            4.0 * torch.sin(lines).expand(*pair.fixed.grid.shape, 3), pair.fixed.grid, "cubic"
        )
        folded = register(
            pair.fixed,
            pair.moving,
            preset=Preset("still", "", RobustWindow(), (Ending(),)),
            initial=fold,
        )
        assert folded.metrics.jacobian.folded_percent > 0.5
        assert folded.outcome is Outcome.FOLDED


class TestMetrics:
    def test_have_the_documented_keys(self, result: Result) -> None:
        metrics = result.metrics.to_json()
        assert list(metrics) == [
            "schema",
            "outcome",
            "notes",
            "stages",
            "time_s",
            "memory_mb",
            "similarity",
            "jacobian",
            "inverse",
            "landmarks",
        ]
        pages = "".join(
            (DOCS / page).read_text(encoding="utf-8") for page in ("outputs.md", "metrics.md")
        )
        documented = set(re.findall(r"`(\w+)`", pages))
        # the groups of the landmarks
        assert {key.removeprefix("snapped_") for key in keys_of(metrics)} - documented == {"A", "B"}

    def test_are_strict_json(self, result: Result) -> None:
        text = json.dumps(result.metrics.to_json(), allow_nan=False)
        assert Metrics.from_json(json.loads(text)) == result.metrics

    def test_tell_the_error_after_each_stage_and_by_groups(self, result: Result) -> None:
        errors = [
            stage["landmarks"]["all"]["mean_mm"] for stage in result.metrics.to_json()["stages"]
        ]
        assert [6.0, *errors] == sorted([6.0, *errors], reverse=True)
        final = result.metrics.to_json()["landmarks"]
        assert errors[-1] == final["all"]["mean_mm"]
        assert set(final["groups"]) == {"A", "B"}
        assert final["all"]["snapped_mean_mm"] != final["all"]["mean_mm"]

    def test_tell_the_levels_of_each_stage(self, result: Result) -> None:
        stage = result.metrics.to_json()["stages"][1]
        assert stage["level_mm"] == [8, 6]
        assert sum(stage["level_iterations"]) == stage["iterations"] == len(result.history)
        assert all(
            last < first
            for first, last in zip(stage["cost_first"], stage["cost_last"], strict=True)
        )

    def test_time_adds_up_and_memory_is_plausible(self, result: Result) -> None:
        time = result.metrics.to_json()["time_s"]
        assert time["total"] == pytest.approx(time["loading"] + time["stages"] + time["measuring"])
        assert sum(stage.seconds for stage in result.metrics.stages) <= time["stages"]
        assert 100 < result.metrics.memory_mb.process < 50_000

    def test_similarity_rises_and_the_map_is_invertible(self, result: Result) -> None:
        similarity = result.metrics.to_json()["similarity"]
        assert similarity["after"]["ncc"] > similarity["before"]["ncc"]
        assert similarity["after"]["mse_intensity2"] < similarity["before"]["mse_intensity2"]
        assert result.metrics.jacobian.folded_percent == 0
        assert result.metrics.jacobian.region == "fixed mask"
        assert result.metrics.inverse.not_inverted_percent == 0
        assert result.metrics.inverse.residual_max_mm < 0.05


def keys_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        return set(value).union(*(keys_of(item) for item in value.values()))
    return set().union(*(keys_of(item) for item in value)) if isinstance(value, list) else set()


def test_a_map_that_is_not_finite_somewhere_is_counted_as_not_inverted(pair: PhantomPair) -> None:
    vectors = torch.zeros(*pair.fixed.grid.shape, 3)
    vectors[: pair.fixed.grid.shape[0] // 2] = torch.nan
    inverse = strict(
        inverse_residual(DenseDisplacement(vectors, pair.fixed.grid), pair.fixed.grid, None)
    )
    assert inverse["not_inverted_percent"] > 40
    assert inverse["residual_mean_mm"] is None


@pytest.mark.parametrize("n", [3, 2000, 2001, 2**25, 2**31 + 1])
def test_points_are_drawn_to_the_last_of_more_than_single_precision_can_count(n: int) -> None:
    drawn = evenly(n, 2000)
    assert (len(drawn), int(drawn[0]), int(drawn[-1])) == (min(n, 2000), 0, n - 1)
    assert bool((drawn.diff() >= 1).all())


def test_strict_numbers() -> None:
    given = {
        "a": np.float32(1.5),
        "b": [np.nan, 2, (np.int64(3), "x")],
        "c": torch.tensor([1.0, torch.inf]),
        "d": None,
        "e": True,
        1: np.array([2]),
    }
    assert strict(given) == {
        "a": 1.5,
        "b": [None, 2, [3, "x"]],
        "c": [1.0, None],
        "d": None,
        "e": True,
        "1": [2],
    }


def test_levels_of_a_history() -> None:
    history = [Record("s", mm, i, 2, 0.0, {}) for mm in (8.0, 8.0, 4.0) for i in range(2)]
    assert [[r.level_mm for r in level] for level in levels_of(history)] == [
        [8.0, 8.0],
        [8.0, 8.0],
        [4.0, 4.0],
    ]
    assert levels_of([]) == []


def test_a_found_mask_is_used_and_noted(pair: PhantomPair) -> None:
    preset = Preset(
        "finds",
        "",
        RobustWindow(),
        (Ending(),),
        find_mask=lambda image: LabelImage((image.data > 0.2).int(), image.grid, "found").mask(),
    )
    result = register(pair.fixed, pair.moving, preset=preset)
    assert result.metrics.jacobian.region == "fixed mask"
    assert [note.split(":")[0] for note in result.metrics.notes] == [
        "no fixed mask was given",
        "no moving mask was given",
    ]
    assert result.config["inputs"]["fixed_mask"]["object"] == "found by the preset"


def test_warnings_of_others_are_not_noted(pair: PhantomPair) -> None:
    still = Preset("still", "", RobustWindow(), (Ending(),))
    result = register(pair.fixed, pair.moving, preset=still, progress=None)
    logging.getLogger("inrreg.elsewhere").warning("after the run")
    assert result.metrics.notes == ()
