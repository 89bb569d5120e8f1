"""The verbs as a user meets them: files in, files and a short table out, an exit code that says how
it went.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from roof_cases import ALARM, TINY, Ending, interrupting, landmarks_of, pair_2d, pair_3d, saved

import inrreg
from inrreg import presets
from inrreg.app import command_line, console, exit_codes
from inrreg.app.command_line import register_verb
from inrreg.app.request import Request
from inrreg.core.errors import InversionError
from inrreg.core.image import LabelImage, Points
from inrreg.evaluation import jacobian_determinant
from inrreg.io import (
    read_image,
    read_labels,
    read_points,
    write_image,
    write_point_pairs,
    write_points,
)
from inrreg.objective.features import RobustWindow
from inrreg.optimisation import Outcome
from inrreg.optimisation.stage_result import Record
from inrreg.phantoms import PhantomPair
from inrreg.presets import Preset

ROOT = Path(__file__).parents[2]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return pair_3d()


@pytest.fixture(scope="module")
def files(pair: PhantomPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = saved(pair, tmp_path_factory.mktemp("files"))
    fixed, moving = landmarks_of(pair)
    write_point_pairs(fixed, moving, folder / "landmarks.csv")
    write_points(fixed, folder / "fixed.csv")
    write_points(moving, folder / "moving.csv")
    write_image(
        LabelImage.from_array(3 * pair.moving_mask.numpy().astype(np.uint8), pair.moving.grid),
        folder / "moving_organ.nii.gz",
    )
    write_image(
        LabelImage.from_array(3 * pair.fixed_mask.numpy().astype(np.uint8), pair.fixed.grid),
        folder / "fixed_organ.nii.gz",
    )
    return folder


@pytest.fixture
def run(files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Exit code, standard output and standard error of a command line, in the folder of the
    files.
    """
    monkeypatch.setitem(presets.PRESETS, "tiny", lambda: TINY)
    monkeypatch.chdir(files)

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ending:
            command_line.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(ending.value.code or 0), printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def result(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result folder made by the command line."""
    output = tmp_path_factory.mktemp("results") / "result"
    options = [
        "--fixed-mask",
        "fixed_mask.nii.gz",
        "--moving-mask",
        "moving_mask.nii.gz",
        "--landmarks",
        "landmarks.csv",
        "--preset",
        "tiny",
        "-q",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "tiny", lambda: TINY)
        patch.chdir(files)
        with pytest.raises(SystemExit):
            command_line.main(
                ["register", "fixed.nii.gz", "moving.nii.gz", "-o", str(output), *options]
            )
    return output


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that are about something else: drawing takes longer than the rest."""
    monkeypatch.setattr(
        "inrreg.report.registration_report",
        lambda path, content: path.write_text("drawn elsewhere"),
    )


@pytest.fixture
def finishing(no_report: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[Outcome], None]:
    """Makes the preset ``tiny`` end as told."""
    return lambda outcome: monkeypatch.setitem(
        presets.PRESETS, "tiny", lambda: Preset("tiny", "", RobustWindow(), (Ending(outcome),))
    )


class TestRegister:
    def test_gives_the_field_that_python_gives(
        self, no_report: None, files: Path, result: Path, tmp_path: Path
    ) -> None:
        options = {
            "fixed_mask": files / "fixed_mask.nii.gz",
            "moving_mask": files / "moving_mask.nii.gz",
        }
        inrreg.register(
            files / "fixed.nii.gz", files / "moving.nii.gz", preset=TINY, **options
        ).save(tmp_path / "python")
        for name in (
            "displacement.nii.gz",
            "warped.nii.gz",
            "transform/transform.json",
            "transform/weights.safetensors",
        ):
            assert (tmp_path / "python" / name).read_bytes() == (result / name).read_bytes(), name

    def test_passes_every_option_on(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        given = {}

        def load(request: Request) -> None:
            given.update(vars(request))
            raise inrreg.RegistrationError("enough")

        monkeypatch.setattr("inrreg.app.load.load", load)
        paths = {
            name: Path(f"{name}.x")
            for name in (
                "fixed_mask",
                "moving_mask",
                "landmarks",
                "guide_landmarks",
                "fixed_lesion_mask",
                "moving_lesion_mask",
            )
        }
        flags = [
            part for name, path in paths.items() for part in (f"--{name.replace('_', '-')}", path)
        ]
        contrasts = ("--contrast", "c.nii", "d.nii", "--contrast", "e.nii", "f.nii")
        code, _, err = run(
            "register",
            "a.nii",
            "b.nii",
            "-o",
            tmp_path / "r",
            *flags,
            *contrasts,
            "--mask-mode",
            "prior",
            "--preset",
            "p",
            "--device",
            "d",
            "--seed",
            5,
            "--threads",
            2,
            "--max-memory",
            900,
            "--set",
            "a.b=1",
            "--set",
            "c=x=y",
        )
        assert (code, err) == (3, "inrreg: enough\n")
        further = ((Path("c.nii"), Path("d.nii")), (Path("e.nii"), Path("f.nii")))
        assert given == {
            "fixed": Path("a.nii"),
            "moving": Path("b.nii"),
            **paths,
            "contrasts": further,
            "mask_mode": "prior",
            "preset": "p",
            "device": "d",
            "seed": 5,
            "threads": 2,
            "max_memory_mb": 900.0,
            "settings": {"a.b": "1", "c": "x=y"},
            # what only Python can give
            **dict.fromkeys(("initial", "spacing", "affine", "progress")),
        }

    def test_shows_a_short_table(self, run: Run, tmp_path: Path) -> None:
        code, out, err = run(
            "register",
            "fixed.nii.gz",
            "moving.nii.gz",
            "-o",
            tmp_path / "r",
            "--landmarks",
            "landmarks.csv",
            "--preset",
            "tiny",
        )
        metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
        assert code == 0
        lines = out.splitlines()
        assert len(lines) < 16
        assert max(map(len, (line.rstrip() for line in lines[:-1]))) <= 80
        assert lines[0].startswith("fixed.nii.gz <- moving.nii.gz")
        after = metrics["similarity"]["after"]
        assert re.search(
            rf"similarity +NCC \S+ -> {after['ncc']:.3g}, LNCC \S+ -> {after['lncc']:.3g}", out
        )
        assert re.search(r"time +\d+\.\d s \(start \d+\.\d, continuous \d+\.\d\)", out)
        assert re.search(r"jacobian +0 % folded in the whole image", out)
        errors = metrics["landmarks"]
        for name, group in {"all": errors["all"], **errors["groups"]}.items():
            row = [
                f"{group[key]:.2f}"
                for key in (
                    "initial_mean_mm",
                    "mean_mm",
                    "median_mm",
                    "trimmed98_mm",
                    "snapped_mean_mm",
                )
            ]
            assert re.search(
                rf"^{name} +{group['n']} +{' +'.join(map(re.escape, row))}", out, re.MULTILINE
            )
        assert lines[-1] == f"report: {tmp_path / 'r' / 'report.html'}"
        assert "<h1>Registration of moving.nii.gz to fixed.nii.gz</h1>" in (
            tmp_path / "r" / "report.html"
        ).read_text(encoding="utf-8")
        # not a terminal: a line a level
        assert [line.split(":")[0] for line in err.splitlines()] == [
            "continuous, 8 mm",
            "continuous, 6 mm",
        ]

    def test_quiet_says_nothing(self, run: Run, no_report: None, tmp_path: Path) -> None:
        assert run(
            "register",
            "fixed.nii.gz",
            "moving.nii.gz",
            "-o",
            tmp_path / "r",
            "--preset",
            "tiny",
            "-q",
        ) == (0, "", "")

    def test_verbose_says_what_stages_do(self, run: Run, no_report: None, tmp_path: Path) -> None:
        _, _, err = run(
            "register",
            "fixed.nii.gz",
            "moving.nii.gz",
            "-o",
            tmp_path / "r",
            "--preset",
            "tiny",
            "--verbose",
        )
        assert "start candidate" in err
        assert "\x1b" not in err

    def test_dry_run_writes_nothing(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(presets.PRESETS, "alarm", lambda: ALARM)
        for preset in ("alarm", "tiny", "default"):
            code, out, err = run(
                "register",
                "fixed.nii.gz",
                "moving.nii.gz",
                "-o",
                tmp_path / "r",
                "--landmarks",
                "landmarks.csv",
                "--fixed-mask",
                "fixed_mask.nii.gz",
                "--preset",
                preset,
                "--dry-run",
            )
            assert (code, err) == (0, "")
        assert re.search(r"^fixed +fixed\.nii\.gz: Grid\(22 x 18 x 15 voxels", out, re.MULTILINE)
        assert re.search(
            r"^overlap +\d+ % of the fixed image lies in the moving one by the headers; centres"
            r" 0\.0 mm apart$",
            out,
            re.MULTILINE,
        )
        assert re.search(r"^fixed mask +2\d % of the image$", out, re.MULTILINE)
        assert re.search(r"^moving mask +none: the whole image counts$", out, re.MULTILINE)
        assert re.search(r"^landmarks +40 pairs, 6\.0 mm apart on average$", out, re.MULTILINE)
        assert re.search(r"^stage +continuous: 8 mm \(\d+ iterations\)", out, re.MULTILINE)
        assert re.search(r"^memory +about \d+ MB at its peak$", out, re.MULTILINE)
        assert list(tmp_path.iterdir()) == []

    def test_dry_run_checks_like_a_run(self, run: Run, tmp_path: Path) -> None:
        code, out, err = run(
            "register",
            "fixed.nii.gz",
            "moving.nii.gz",
            "-o",
            tmp_path / "r",
            "--fixed-mask",
            "moving_mask.nii.gz",
            "--dry-run",
        )
        assert (code, out) == (2, "")
        assert "resample the mask" in err

    def test_replaces_an_older_result(self, run: Run, no_report: None, tmp_path: Path) -> None:
        for seed in (0, 1):
            assert (
                run(
                    "register",
                    "fixed.nii.gz",
                    "moving.nii.gz",
                    "-o",
                    tmp_path / "r",
                    "--preset",
                    "tiny",
                    "--seed",
                    seed,
                    "-q",
                )[0]
                == 0
            )
        assert json.loads((tmp_path / "r" / "config.json").read_text())["seed"] == 1
        assert os.listdir(tmp_path) == ["r"]


class TestExitCodes:
    @pytest.mark.parametrize(
        ("outcome", "code"),
        [
            (Outcome.CONVERGED, 0),
            (Outcome.ITERATION_LIMIT, 0),
            (Outcome.DIVERGED, 4),
            (Outcome.NON_FINITE, 4),
            (Outcome.FOLDED, 5),
            (Outcome.INTERRUPTED, 130),
        ],
    )
    @pytest.mark.parametrize("quiet", [(), ("-q",)])
    def test_follow_the_outcome(
        self,
        outcome: Outcome,
        code: int,
        quiet: tuple[str, ...],
        run: Run,
        finishing: Callable[[Outcome], None],
        tmp_path: Path,
    ) -> None:
        finishing(outcome)
        got, _, err = run(
            "register",
            "fixed.nii.gz",
            "moving.nii.gz",
            "-o",
            tmp_path / "r",
            "--preset",
            "tiny",
            *quiet,
        )
        assert got == code
        assert inrreg.load(tmp_path / "r").outcome is outcome  # written whatever it is
        assert (f"{outcome.label}: {outcome.value}" in err) == (code != 0)

    def test_cover_every_outcome(self) -> None:
        assert set(exit_codes.EXIT) == {outcome.name for outcome in Outcome}

    def test_are_documented(self) -> None:
        page = (ROOT / "docs" / "outputs.md").read_text(encoding="utf-8")
        for code in {
            exit_codes.BAD_INPUT,
            exit_codes.FAILED,
            exit_codes.STOPPED,
            *exit_codes.EXIT.values(),
        }:
            assert f"| {code} |" in page
            assert str(code) in command_line.DESCRIPTION

    def test_of_an_interrupt_while_a_stage_runs(
        self, run: Run, no_report: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(register_verb, "progress_shown", lambda: nullcontext(interrupting(15)))
        code, out, err = run(
            "register", "fixed.nii.gz", "moving.nii.gz", "-o", tmp_path / "r", "--preset", "tiny"
        )
        assert code == 130
        assert (
            "stage continuous was stopped on request at 6 mm; the map after iteration 3 of 12 is"
            " kept" in err
        )
        assert "outcome     interrupted: Stopped on request" in out
        metrics = json.loads((tmp_path / "r" / "metrics.json").read_text())
        assert metrics["outcome"]["name"] == "interrupted"
        assert metrics["stages"][1]["level_iterations"] == [12, 3]

    def test_of_an_interrupt_before_anything_was_found(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(
            presets.PRESETS,
            "tiny",
            lambda: Preset("tiny", "", RobustWindow(), (Ending(error=KeyboardInterrupt()),)),
        )
        assert run(
            "register", "fixed.nii.gz", "moving.nii.gz", "-o", tmp_path / "r", "--preset", "tiny"
        ) == (130, "", "inrreg: stopped; nothing was written\n")
        assert list(tmp_path.iterdir()) == []

    def test_of_a_defect_of_ours(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(
            presets.PRESETS,
            "tiny",
            lambda: Preset(
                "tiny", "", RobustWindow(), (Ending(error=ZeroDivisionError("division\nby zero")),)
            ),
        )
        command = (
            "register",
            "fixed.nii.gz",
            "moving.nii.gz",
            "-o",
            tmp_path / "r",
            "--preset",
            "tiny",
        )
        code, _, err = run(*command)
        assert (code, err) == (
            3,
            (
                "inrreg: unexpected ZeroDivisionError (division by zero), which is a defect of"
                " inrreg; please report it with the traceback that --verbose shows\n"
            ),
        )
        code, _, err = run(*command, "--verbose")
        assert code == 3
        assert "Traceback (most recent call last)" in err

    def test_of_an_interrupt_by_the_keyboard(self, files: Path, tmp_path: Path) -> None:
        """The real thing: the signal arrives wherever the run is, here at the beginning of a fit
        that would take minutes.
        """
        command = [
            sys.executable,
            "-m",
            "inrreg.app.command_line",
            "register",
            "fixed.nii.gz",
            "moving.nii.gz",
            "-o",
            str(tmp_path / "r"),
            "--preset",
            "idir",
            "--verbose",
        ]
        process = subprocess.Popen(
            command,
            cwd=files,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        assert process.stderr is not None
        first = next(line for line in process.stderr if "continuous: level" in line)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=60)[1]
        assert process.returncode == 130, first + rest
        assert "is kept" in rest
        assert inrreg.load(tmp_path / "r").outcome is Outcome.INTERRUPTED
        assert os.listdir(tmp_path) == ["r"]


class TestWarp:
    def test_images(self, run: Run, result: Path, tmp_path: Path) -> None:
        assert run("warp", "moving.nii.gz", result, "-o", tmp_path / "w.nii.gz") == (0, "", "")
        assert (tmp_path / "w.nii.gz").read_bytes() == (result / "warped.nii.gz").read_bytes()
        assert (
            run(
                "warp",
                "moving.nii.gz",
                result,
                "-o",
                tmp_path / "c.mha",
                "--interpolation",
                "cubic",
            )[0]
            == 0
        )
        difference = (
            read_image(tmp_path / "c.mha").data - read_image(tmp_path / "w.nii.gz").data
        ).abs()
        assert 0 < float(difference.max()) < 0.5

    def test_labels(self, run: Run, result: Path, files: Path, tmp_path: Path) -> None:
        assert run(
            "warp",
            "moving_organ.nii.gz",
            result,
            "-o",
            tmp_path / "l.nii.gz",
            "--interpolation",
            "nearest",
        ) == (0, "", "")
        warped, fixed = (
            read_labels(tmp_path / "l.nii.gz"),
            read_labels(files / "fixed_organ.nii.gz"),
        )
        assert nibabel.load(tmp_path / "l.nii.gz").get_data_dtype() == np.uint8
        assert set(warped.data.unique().tolist()) == {0, 3}
        assert float((warped.data == fixed.data).float().mean()) > 0.95

    @pytest.mark.parametrize(
        ("arguments", "pattern"),
        [
            (("nothing.nii.gz", "RESULT", "-o", "w.nii.gz"), "nothing.nii.gz is not there"),
            (("moving.nii.gz", ".", "-o", "w.nii.gz"), r"\. is no result folder of inrreg"),
            (("moving.nii.gz", "RESULT", "-o", "w.docx"), "w.docx has no known suffix"),
            (
                ("moving.nii.gz", "RESULT", "-o", "w.nii.gz", "--interpolation", "nearest"),
                "moving.nii.gz is no label image",
            ),
        ],
    )
    def test_bad_input(
        self, arguments: tuple[str, ...], pattern: str, run: Run, result: Path
    ) -> None:
        code, out, err = run(
            "warp", *[str(result) if argument == "RESULT" else argument for argument in arguments]
        )
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert re.search(pattern, err)
        assert not Path("w.nii.gz").exists()

    def test_where_it_cannot_be_written(self, run: Run, result: Path, tmp_path: Path) -> None:
        code, _, err = run("warp", "moving.nii.gz", result, "-o", tmp_path / "no" / "where.nii.gz")
        assert code == 3
        assert re.fullmatch(
            r"inrreg: .*where\.nii\.gz could not be written \(No such file or directory\); check"
            r" that its folder exists and has room\n",
            err,
        )


class TestPoints:
    def test_both_ways(
        self, run: Run, result: Path, files: Path, pair: PhantomPair, tmp_path: Path
    ) -> None:
        assert run(
            "points",
            "fixed.csv",
            result,
            "-o",
            tmp_path / "there.csv",
            "--direction",
            "fixed-to-moving",
        ) == (0, "", "")
        assert run(
            "points",
            tmp_path / "there.csv",
            result,
            "-o",
            tmp_path / "back.csv",
            "--direction",
            "moving-to-fixed",
        ) == (0, "", "")
        there, back = read_points(tmp_path / "there.csv"), read_points(tmp_path / "back.csv")
        assert there.labels == back.labels == landmarks_of(pair)[0].labels
        assert torch.equal(there.coords, inrreg.load(result).transform(pair.fixed_landmarks.coords))
        before, after = (
            (points - pair.moving_landmarks.coords).norm(dim=1).mean()
            for points in (pair.fixed_landmarks.coords, there.coords)
        )
        assert float(after) < 0.5 * float(before)
        # the tolerance of the inverse
        torch.testing.assert_close(back.coords, pair.fixed_landmarks.coords, atol=0.05, rtol=0)

    def test_for_slicer(self, run: Run, result: Path, tmp_path: Path) -> None:
        run(
            "points",
            "fixed.csv",
            result,
            "-o",
            tmp_path / "there.csv",
            "--direction",
            "fixed-to-moving",
        )
        assert (
            run(
                "points",
                "fixed.csv",
                result,
                "-o",
                tmp_path / "there.mrk.json",
                "--direction",
                "fixed-to-moving",
            )[0]
            == 0
        )
        torch.testing.assert_close(
            read_points(tmp_path / "there.mrk.json").coords,
            read_points(tmp_path / "there.csv").coords,
        )

    def test_a_direction_must_be_given(self, run: Run, result: Path, tmp_path: Path) -> None:
        code, _, err = run("points", "fixed.csv", result, "-o", tmp_path / "p.csv")
        assert code == 2
        assert "--direction" in err

    def test_a_map_that_cannot_be_inverted_is_told(
        self, run: Run, result: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*arguments: object) -> None:
            raise InversionError("3 of 40 points could not be inverted")

        monkeypatch.setattr("inrreg.transforms.inverse.NumericInverse.displacement", fail)
        code, _, err = run(
            "points",
            "moving.csv",
            result,
            "-o",
            tmp_path / "p.csv",
            "--direction",
            "moving-to-fixed",
        )
        assert (code, err) == (3, "inrreg: 3 of 40 points could not be inverted\n")
        assert list(tmp_path.iterdir()) == []

    def test_points_of_another_dimension(self, run: Run, result: Path, tmp_path: Path) -> None:
        write_points(Points.from_array(np.zeros((2, 2))), tmp_path / "flat.csv")
        code, _, err = run(
            "points",
            tmp_path / "flat.csv",
            result,
            "-o",
            tmp_path / "p.csv",
            "--direction",
            "fixed-to-moving",
        )
        assert code == 2
        assert re.fullmatch(
            r"inrreg: .*flat\.csv has points in 2-D, but the result is in 3-D.*\n", err
        )


def test_jacobian(run: Run, result: Path, tmp_path: Path) -> None:
    code, out, err = run("jacobian", result, "-o", tmp_path / "j.nii.gz")
    assert (code, err) == (0, "")
    loaded, written = inrreg.load(result), read_image(tmp_path / "j.nii.gz")
    assert written.grid.same_as(loaded.grid)
    torch.testing.assert_close(written.data[0], jacobian_determinant(loaded.transform, loaded.grid))
    assert re.search(
        rf"jacobian +0 % folded in the whole image; determinant {float(written.data.min()):.2f} to"
        rf" {float(written.data.max()):.2f}",
        out,
    )


class TestEvaluate:
    def test_everything(self, run: Run, result: Path, tmp_path: Path) -> None:
        options = (
            "--landmarks",
            "landmarks.csv",
            "--fixed-labels",
            "fixed_organ.nii.gz",
            "--moving-labels",
            "moving_organ.nii.gz",
            "--mask",
            "fixed_mask.nii.gz",
        )
        code, out, err = run("evaluate", result, *options, "-o", tmp_path / "e.json")
        assert (code, err) == (0, "")
        numbers, metrics = (
            json.loads((tmp_path / "e.json").read_text()),
            json.loads((result / "metrics.json").read_text()),
        )
        # also the snapped ones: the result knows the moving grid
        assert numbers["landmarks"] == metrics["landmarks"]
        assert {**numbers["jacobian"], "region": "fixed mask"} == metrics["jacobian"]
        assert 0.9 < numbers["overlap"]["label_3_dice"] <= 1
        assert 0 <= numbers["surface"]["label_3_surface_distance_mm"] < 3
        assert re.search(r"overlap +Dice 0\.9\d+ on average over 1 labels", out)
        assert re.search(r"surface +distance \S+ mm, Hausdorff 95 % \S+ mm on average", out)
        assert re.search(
            rf"^B +20 .* {numbers['landmarks']['groups']['B']['snapped_mean_mm']:.2f}",
            out,
            re.MULTILINE,
        )

    def test_the_jacobian_alone(self, run: Run, result: Path) -> None:
        code, out, _ = run("evaluate", result)
        assert code == 0
        assert "folded in the whole image" in out
        assert "landmarks" not in out

    @pytest.mark.parametrize(
        ("options", "pattern"),
        [
            (
                ("--fixed-labels", "fixed_organ.nii.gz"),
                "labels are compared in pairs: give both fixed and moving labels",
            ),
            (
                ("--mask", "moving_mask.nii.gz"),
                (
                    r"moving_mask\.nii\.gz lies on Grid\(.*but the result on Grid\(.*give an image"
                    r" on the fixed grid"
                ),
            ),
            (
                ("--fixed-labels", "moving_organ.nii.gz", "--moving-labels", "fixed_organ.nii.gz"),
                r"moving_organ\.nii\.gz lies on Grid\(.*but the result on Grid\(",
            ),
            (("--landmarks", "fixed.csv"), "lacks the columns fixed_x"),
        ],
    )
    def test_bad_input(
        self, options: tuple[str, ...], pattern: str, run: Run, result: Path
    ) -> None:
        code, out, err = run("evaluate", result, *options)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert re.search(pattern, err)

    def test_where_it_cannot_be_written(self, run: Run, result: Path, tmp_path: Path) -> None:
        code, _, err = run("evaluate", result, "-o", tmp_path / "no" / "where.json")
        assert code == 3
        assert "where.json could not be written (No such file or directory)" in err


class TestDemo:
    def test_lung(
        self, run: Run, no_report: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(presets.PRESETS, "lung", lambda: TINY)
        code, out, _ = run("demo", "lung", "--size", 20, "--motion-mm", 10, "-o", tmp_path / "demo")
        assert code == 0
        assert "lung phantom against its known truth" in out
        assert re.search(r"^lung +100 +10\.00 ", out, re.MULTILINE)
        assert {path.name for path in (tmp_path / "demo" / "pair").iterdir()} == {
            f"{name}.nii.gz"
            for name in ("fixed", "moving", "fixed_mask", "moving_mask", "displacement")
        } | {"landmarks.csv"}
        assert inrreg.load(tmp_path / "demo" / "result").grid.shape == (20, 17, 20)

    def test_too_small(self, run: Run, tmp_path: Path) -> None:
        assert run("demo", "lung", "--size", 4, "-o", tmp_path / "demo") == (
            2,
            "",
            "inrreg: a size of 4 voxels shows no lung; give 16 or more\n",
        )
        assert list(tmp_path.iterdir()) == []

    def test_another_phantom(self, run: Run) -> None:
        code, _, err = run("demo", "knee")
        assert code == 2
        assert "lung" in err


def test_doctor(run: Run) -> None:
    code, out, err = run("doctor")
    assert (code, err) == (0, "")
    found = {line.split()[0]: line.split(maxsplit=1)[1] for line in out.splitlines()}
    assert found["inrreg"] == inrreg.__version__
    assert found["torch"].startswith(torch.__version__)
    assert found["cuda"].startswith("none: ") != torch.cuda.is_available()
    assert re.match(r"not usable: .+|found at ", found["tinycudann"])
    assert not [name for name, finding in found.items() if "missing" in finding]


class TestHelp:
    def test_version(self, run: Run) -> None:
        assert run("--version") == (0, f"inrreg {inrreg.__version__}\n", "")

    def test_of_the_program(self, run: Run) -> None:
        code, out, _ = run("--help")
        assert code == 0
        assert all(verb in out for verb in command_line.VERBS)

    @pytest.mark.parametrize("verb", command_line.VERBS)
    def test_of_every_verb_tells_every_option(self, verb: str, run: Run) -> None:
        code, out, _ = run(verb, "--help")
        assert code == 0
        rows = re.sub(r"[│╭╮╰╯─]", " ", out)
        flag_at_start = r"^ +(?:-\w(?: \w+)?, )?(--[a-z][a-z-]+)"
        flags = re.findall(flag_at_start, rows, re.MULTILINE)
        assert ("--output" in flags) == (verb != "doctor")
        for flag, following in zip(
            flags, re.split(flag_at_start, rows, flags=re.MULTILINE)[2::2], strict=True
        ):
            assert len(following.split()) > 3, f"{verb} {flag} is not explained"
        assert "None" not in out

    def test_names_every_preset(self, run: Run) -> None:
        listed = re.sub(r"[│\s]+", " ", run("register", "--help")[1])
        told = listed.split("--preset")[1].split("--device")[0]
        assert [name for name in presets.PRESETS if name not in told] == ["tiny"], (
            "name it in the help of inrreg.app.request.Request.preset"
        )

    def test_without_a_verb(self, run: Run) -> None:
        code, out, err = run()
        assert (code, out) == (2, "")
        assert "register" in err


class TestProgress:
    @pytest.fixture
    def records(self) -> list[Record]:
        return [
            Record("continuous", mm, i, 80, 1.0 / (i + 1), {"lncc": 0.1})
            for mm in (8.0, 4.0)
            for i in range(4)
        ]

    def test_is_a_line_a_level_where_there_is_no_terminal(
        self, records: list[Record], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with console.progress_shown() as watch:
            for record in records:
                watch(record)
        assert (
            capsys.readouterr().err
            == "continuous, 8 mm: 4 iterations, cost 1.0000 -> 0.2500\ncontinuous, 4 mm: 4"
            " iterations, cost 1.0000 -> 0.2500\n"
        )

    def test_is_a_bar_of_one_line_on_a_terminal(
        self,
        records: list[Record],
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        monkeypatch.setattr(
            console,
            "err",
            console.Console(stderr=True, force_terminal=True, width=80, color_system=None),
        )
        with console.progress_shown() as watch:
            for record in records:
                watch(record)
            console.err.print("a message meanwhile")
        shown = re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capsys.readouterr().err))
        assert any("continuous, 4 mm" in line for line in shown)
        assert max(map(len, shown)) <= 80
        assert "a message meanwhile" in map(str.strip, shown)

    def test_nothing_is_left_when_nothing_ran(self, capsys: pytest.CaptureFixture[str]) -> None:
        with console.progress_shown():
            pass
        assert capsys.readouterr().err == ""


def test_messages_are_one_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    long = " ".join(["word"] * 60)
    for level, expected in ((False, f"warning: [x] {long}\n"), (True, "")):
        console.set_up_logging(quiet=level)
        logging.getLogger("inrreg.somewhere").warning("[x] %s", long)
        logging.getLogger("inrreg.somewhere").info("not shown")
        assert capsys.readouterr().err == expected


def test_two_pictures(run: Run, tmp_path: Path) -> None:
    """PNG in, pixels of 1 mm: a 2-D field that SimpleITK reads, and pictures out."""
    pair = pair_2d()
    for name, image in (("a", pair.fixed), ("b", pair.moving)):
        pixels = (80 * image.numpy()).clip(0, 255).astype(np.uint8)
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels.T), str(tmp_path / f"{name}.png"))
    code, out, err = run(
        "register", tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "r", "--preset", "tiny"
    )
    assert (code, "Traceback" in err) == (0, False)
    field = nibabel.load(tmp_path / "r" / "displacement.nii.gz")
    assert field.shape == (36, 32, 1, 1, 2)
    assert int(field.header["intent_code"]) == 1007
    read = SimpleITK.ReadImage(
        str(tmp_path / "r" / "displacement.nii.gz"), SimpleITK.sitkVectorFloat64
    )
    assert (read.GetDimension(), read.GetNumberOfComponentsPerPixel()) == (2, 2)
    assert nibabel.load(tmp_path / "r" / "warped.nii.gz").shape == (36, 32)
    assert run("warp", tmp_path / "b.png", tmp_path / "r", "-o", tmp_path / "w.png")[0] == 0
    warped, fixed, moving = (
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / f"{name}.png"))).astype(
            float
        )
        for name in "wab"
    )
    assert warped.dtype == fixed.dtype
    assert np.square(warped - fixed).mean() < 0.5 * np.square(moving - fixed).mean()
    similarity = json.loads((tmp_path / "r" / "metrics.json").read_text())["similarity"]
    # the picture is rounded to whole grey values
    assert similarity["after"]["mse_intensity2"] == pytest.approx(
        np.square(warped - fixed).mean(), rel=0.05
    )
    assert "NCC" in out


def test_the_installed_command_is_this_module() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["scripts"]["inrreg"] == "inrreg.app.command_line:main"
