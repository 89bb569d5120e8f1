"""The benchmark against other tools, with tools made up: frames of the adapters, what a run used,
rows, resuming, medians, ratios, the bootstrap and the targets.
"""

import csv
import importlib
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import SimpleITK
import torch
from roof_cases import pair_2d, pair_3d, saved
from worlds import oblique_grid

import inrreg
from inrreg.core.errors import InputError
from inrreg.core.grid import Grid
from inrreg.core.image import LabelImage, Points
from inrreg.evaluation import landmark_error
from inrreg.io import (
    read_displacement,
    read_image,
    read_point_pairs,
    write_displacement,
    write_image,
    write_point_pairs,
)
from inrreg.phantoms import PhantomPair
from inrreg.transforms import DenseDisplacement

ROOT = Path(__file__).parents[2]
LUNG = "lung_ct_longitudinal"
CHILD_MB = 100


@pytest.fixture(autouse=True)
def root_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))


def part(name: str) -> ModuleType:
    """A module of the benchmark."""
    return importlib.import_module(f"experiments.benchmarks.peers.{name}")


def lung_case(root: Path, pair: PhantomPair) -> Path:
    """``pair`` in the place and with the labels of the lung case."""
    folder = saved(pair, root / LUNG)
    labels = tuple(f"L{i}" for i in range(len(pair.fixed_landmarks)))
    write_point_pairs(
        Points(pair.fixed_landmarks.coords, labels),
        Points(pair.moving_landmarks.coords, labels),
        folder / "landmarks.csv",
    )
    return folder


@dataclass(frozen=True)
class Telling:
    """A tool that finds the share of the truth it is told, by copying a field."""

    name: str
    field: Path
    reason: str = ""

    def refusal(self) -> str:
        return self.reason

    def command(self, benchmark: Any, folder: Path, threads: int) -> list[str]:
        code = (
            f"import os, shutil; assert os.environ['OMP_NUM_THREADS'] == '{threads}';"
            f" shutil.copy({str(self.field)!r}, {str(folder / 'displacement.nii.gz')!r})"
        )
        return [sys.executable, "-S", "-c", code]

    def told(self, folder: Path) -> dict[str, Any]:
        return {"version": "1", "register_s": 0.5, "main_loop_s": 0.25}


class TestFrames:
    @pytest.fixture
    def job(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        """A fixed image on an oblique grid, and a moving one of the same voxels whose header alone
        is moved by ``start``, RAS (3, -5, 7) mm.
        """
        grid = oblique_grid(3)
        image = LabelImage.from_array(
            np.random.default_rng(0).integers(0, 9, grid.shape).astype(np.uint8), grid
        )
        moved = np.array(grid.affine)
        moved[:3, 3] += (3, -5, 7)
        write_image(image, tmp_path / "fixed.nii.gz")
        write_image(LabelImage(image.data, Grid(grid.shape, moved)), tmp_path / "moving.nii.gz")
        files = {which: str(tmp_path / f"{which}.nii.gz") for which in ("fixed", "moving")}
        job = {
            **files,
            "output": str(tmp_path),
            "threads": 1,
            "isotropic_mm": 1.3,
            "aligned": False,
            "start_mm": (-3.0, 5.0, 7.0),
        }
        (tmp_path / "job.json").write_text(json.dumps(job))
        monkeypatch.setattr(sys, "argv", ["adapter", str(tmp_path / "job.json")])
        return job

    def test_all_tools_start_from_the_same_translation(
        self, job: dict[str, Any], tmp_path: Path
    ) -> None:
        def register(_: Any, fixed: SimpleITK.Image, moving: SimpleITK.Image) -> SimpleITK.Image:
            assert moving.GetOrigin() == pytest.approx(fixed.GetOrigin(), abs=1e-4)
            still = SimpleITK.Image(fixed.GetSize(), SimpleITK.sitkVectorFloat64, 3)
            still.CopyInformation(fixed)
            return still

        part("adapters.frames").main("numpy", register)
        field = read_displacement(tmp_path / "displacement.nii.gz")
        assert field.grid.same_as(read_image(job["fixed"]).grid)
        assert torch.allclose(field.vectors, torch.tensor([3.0, -5.0, 7.0]))
        assert json.loads((tmp_path / "run.json").read_text())["version"] == np.__version__

    def test_voxels_become_mm_along_the_axes_of_the_grid(
        self, job: dict[str, Any], tmp_path: Path
    ) -> None:
        """A displacement linear in the indices of a grid of equal spacings is linear in mm."""
        frames = part("adapters.frames")
        matrix = np.array([[0.02, 0.01, 0.0], [-0.01, 0.03, 0.02], [0.0, 0.015, -0.02]])

        def register(job: Any, fixed: SimpleITK.Image, _: SimpleITK.Image) -> SimpleITK.Image:
            grid = frames.isotropic(fixed, job.isotropic_mm)
            assert grid.GetSpacing() == (1.3, 1.3, 1.3)
            voxels = np.stack(
                np.meshgrid(*[np.arange(n) for n in grid.GetSize()], indexing="ij"), -1
            )
            return frames.from_voxels(voxels @ matrix.T, grid, fixed)

        frames.main("numpy", register)
        field, grid = (
            read_displacement(tmp_path / "displacement.nii.gz"),
            read_image(job["fixed"]).grid,
        )
        axes = np.array(grid.affine)[:3, :3] / np.linalg.norm(np.array(grid.affine)[:3, :3], axis=0)
        from_origin = grid.points(torch.float64) - torch.as_tensor(np.array(grid.affine)[:3, 3])
        expected = from_origin @ torch.as_tensor(axes @ matrix @ axes.T).T + torch.tensor(
            [3.0, -5.0, 7.0]
        )
        assert torch.allclose(field.vectors.double(), expected, atol=1e-4)

    def test_the_start_is_between_the_centroids_of_the_masks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        grid = oblique_grid(3)
        mask = np.zeros(grid.shape, np.uint8)
        mask[2:5, 3:6, 1:3] = 1
        moved = np.array(grid.affine)
        moved[:3, 3] += (3, -5, 7)
        folder = tmp_path / LUNG
        folder.mkdir()
        for which, affine in (("fixed", grid.affine), ("moving", moved)):
            for name in (which, f"{which}_mask"):
                write_image(
                    LabelImage.from_array(mask, Grid(grid.shape, affine)), folder / f"{name}.nii.gz"
                )
        monkeypatch.setenv("INRREG_DATA", str(tmp_path))
        (benchmark,) = part("cases").chosen([LUNG], tmp_path)
        assert benchmark.start_mm() == pytest.approx((-3, 5, 7), abs=1e-4)  # LPS
        (folder / "fixed_mask.nii.gz").unlink()
        assert benchmark.start_mm() == (0, 0, 0)


class TestTools:
    def test_memory_is_that_of_the_command_alone(self, tmp_path: Path) -> None:
        """Whatever the process that asks holds."""
        held = np.ones(3 * CHILD_MB * 2**17)
        code = (
            f"import time; kept = bytearray(b'1' * {CHILD_MB * 2**20}); end = time.process_time() +"
            " 0.3\nwhile time.process_time() < end: pass\nraise SystemExit(7)"
        )
        subprocess.run(
            [
                sys.executable,
                "-I",
                "-S",
                str(part("tools").LAUNCH),
                str(tmp_path / "usage.json"),
                sys.executable,
                "-S",
                "-c",
                code,
            ],
            check=True,
        )
        used = json.loads((tmp_path / "usage.json").read_text())
        assert used["code"] == 7
        # bytes and their copy, and the interpreter
        assert CHILD_MB < used["memory_mb"] < 3 * CHILD_MB < held.nbytes / 1e6
        assert 0.3 < used["cpu_s"] < used["seconds"] + 0.1

    def test_a_peer_that_is_not_there_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        tools = part("tools")
        absent = tools.Peer("ants", "no-such-package", "no_such_module", sys.executable)
        assert (
            absent.refusal()
            == f"no_such_module not installed for {Path(sys.executable).name}: pip install"
            " SimpleITK no-such-package"
        )
        assert tools.Peer("ants", "numpy", "numpy", sys.executable).refusal() == ""
        assert "cannot be run" in tools.Peer("ants", "numpy", "numpy", "no-such-python").refusal()

    def test_names(self) -> None:
        tools = part("tools")
        assert [
            tool.name
            for tool in tools.chosen(["inrreg", "inrreg:neural", "greedy", "inrreg"], "python")
        ] == ["inrreg", "inrreg:neural", "greedy"]
        with pytest.raises(InputError, match="no tool is called 'demons'"):
            tools.chosen(["demons"], "python")
        with pytest.raises(InputError, match="no case is called 'knee'"):
            part("cases").chosen(["knee"], Path())

    def test_every_peer_has_an_adapter(self) -> None:
        assert {
            path.stem for path in (ROOT / "experiments/benchmarks/peers/adapters").glob("*.py")
        } - {"__init__", "frames"} == set(part("tools").PEERS)

    def test_ours_is_the_command_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lung_case(tmp_path, pair_2d())
        monkeypatch.setenv("INRREG_DATA", str(tmp_path))
        (benchmark,) = part("cases").chosen([LUNG], tmp_path)
        found = part("__main__").row(
            part("tools").Ours("inrreg:graph", "graph"), benchmark, tmp_path / "run", 1
        )
        result = inrreg.load(tmp_path / "run" / "result")
        assert (found["refused"], result.config["preset"]["name"], result.config["threads"]) == (
            "",
            "graph",
            1,
        )
        assert [
            Path(result.config["inputs"][name]["file"]).name
            for name in ("fixed_mask", "moving_mask")
        ] == ["fixed_mask.nii.gz", "moving_mask.nii.gz"]
        dense = DenseDisplacement(result.transform.displacement_on(result.grid), result.grid)
        assert found["L_mean_mm"] == pytest.approx(
            landmark_error(
                dense, *read_point_pairs(tmp_path / LUNG / "landmarks.csv")
            ).all.continuous.mean_mm,
            abs=1e-4,
        )
        assert 0 < found["main_loop_s"] < found["register_s"] < found["seconds"]


class TestStudy:
    @pytest.fixture
    def fields(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[float, Path]:
        """A lung case, and fields that hold all, half and nothing of its truth."""
        pair = pair_3d()
        lung_case(tmp_path / "data", pair)
        monkeypatch.setenv("INRREG_DATA", str(tmp_path / "data"))
        paths = {share: tmp_path / f"{share}.nii.gz" for share in (1.0, 0.5, 0.0)}
        for share, path in paths.items():
            write_displacement(share * pair.displacement, pair.fixed.grid, path)
        return paths

    def test_rows_medians_and_targets(self, fields: dict[float, Path], tmp_path: Path) -> None:
        main, benchmarks = part("__main__"), part("cases").chosen(["lung"], tmp_path)
        chosen = [
            Telling("inrreg", fields[1.0]),
            Telling("convexadam", fields[0.5]),
            Telling("greedy", fields[0.0]),
            Telling("ants", fields[0.0], "not there"),
        ]
        rows = main.study(
            benchmarks, chosen, tmp_path / "out", threads=1, repeats=2, resume=False
        ).rows
        assert [(r["tool"], r["repeat"]) for r in rows] == [
            ("inrreg", "1"),
            ("convexadam", "1"),
            ("greedy", "1"),
            ("ants", "1"),
            ("inrreg", "2"),
            ("convexadam", "2"),
            ("greedy", "2"),
        ]
        assert [r["refused"] for r in rows] == ["", "", "", "not there", "", "", ""]
        with (tmp_path / "out" / "medians.csv").open(newline="") as stream:
            medians = {r["tool"]: r for r in csv.DictReader(stream)}
        assert set(medians) == {"inrreg", "convexadam", "greedy"}
        assert float(medians["greedy"]["L_mean_mm"]) == pytest.approx(6.0, abs=1e-3)
        assert float(medians["convexadam"]["L_mean_mm"]) == pytest.approx(3.0, abs=0.2)
        assert {r["best_peer"] for r in medians.values()} == {"convexadam"}
        assert float(medians["greedy"]["L_mean_mm_over_best_peer"]) == pytest.approx(2.0, abs=0.1)
        assert float(medians["convexadam"]["seconds_over_best_peer"]) == 1
        met = {
            entry["measure"]: entry
            for entry in json.loads((tmp_path / "out" / "summary.json").read_text())
        }
        interval = met[
            "lung: upper end of the paired bootstrap 95 % interval of our error - convexAdam's, mm"
        ]
        assert (-3.2 < interval["value"] < -2.5, interval["met"]) == (True, True)
        assert met["brain: folded, %"]["value"] is None
        assert met["brain: folded, %"]["met"] is None
        runs = tmp_path / "out" / "runs" / LUNG / "inrreg"
        assert (runs / "1_threads_1" / "displacement.nii.gz").exists()
        assert not (runs / "1_threads_2" / "displacement.nii.gz").exists()

    def test_resumes(self, fields: dict[float, Path], tmp_path: Path) -> None:
        main, benchmarks = part("__main__"), part("cases").chosen(["lung"], tmp_path)

        def study(*chosen: Telling, **options: Any) -> list[dict[str, Any]]:
            return main.study(
                benchmarks,
                list(chosen),
                tmp_path / "out",
                **{"threads": 1, "repeats": 1, "resume": True, **options},
            ).rows

        study(
            Telling("inrreg", fields[1.0]),
            Telling("ants", fields[0.0], "not there"),
            Telling("greedy", tmp_path / "gone"),
        )
        rows = study(
            Telling("inrreg", tmp_path / "gone"),
            Telling("ants", fields[0.0]),
            Telling("greedy", tmp_path / "gone"),
        )
        assert [(r["tool"], r["refused"][:17]) for r in rows] == [
            ("inrreg", ""),
            ("ants", ""),
            ("greedy", "ended with code 1"),
        ]
        assert "FileNotFoundError" in rows[2]["refused"]
        rows = study(Telling("inrreg", fields[1.0]), threads=2)
        assert [(r["tool"], r["threads"]) for r in rows] == [
            ("inrreg", "1"),
            ("ants", "1"),
            ("inrreg", "2"),
        ]
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        assert [
            entry["value"] for entry in summary if entry["measure"].startswith("lung: main loop")
        ] == [1.0]


class TestComparison:
    def test_bootstrap(self) -> None:
        bootstrap = part("compare").bootstrap
        assert bootstrap(
            torch.full((7,), 0.3, dtype=torch.float64), torch.Generator().manual_seed(0)
        ) == pytest.approx((0.3, 0.3))
        differences = (
            torch.randn(400, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.2
        )
        low, high = bootstrap(differences, torch.Generator().manual_seed(0))
        half = 1.96 * float(differences.std()) / 20  # of the mean of 400, by the normal law
        assert (low, high) == pytest.approx(
            (float(differences.mean()) - half, float(differences.mean()) + half), abs=0.1 * half
        )

    def test_pairs_are_matched_by_label(self) -> None:
        assert part("compare").paired(
            {"L1": 1.0, "L2": 3.0, "W1": 9.0}, {"W1": 0.0, "L2": 1.0, "L1": 1.5}, "L"
        ).tolist() == [-0.5, 2.0]

    def test_targets_are_held_against_the_right_rows(self) -> None:
        cases, claims = importlib.import_module("experiments.cases"), part("claims").claims
        brain = [
            (tool, dice, seconds)
            for tool, dice, seconds in (
                ("inrreg", 0.80, 100.0),
                ("greedy", 0.79, 217.0),
                ("ants", 0.81, 400.0),
                ("convexadam", 0.72, 90.0),
            )
        ]
        rows = [
            {
                "case": cases.BRAIN[0],
                "tool": tool,
                "threads": "1",
                "missing_dice": 1 - dice,
                "seconds": seconds,
                "folded_percent": 0.06,
            }
            for tool, dice, seconds in brain
        ]
        liver = {"inrreg": (1.5, 2.0, 20.0), "convexadam": (1.8, 2.2, 10.0)}
        rows += [
            {
                "case": case,
                "tool": tool,
                "threads": "1",
                "liver_mean_mm": a,
                "outside_mean_mm": b,
                "seconds": s,
            }
            for case in cases.LIVER
            for tool, (a, b, s) in liver.items()
        ]
        found = {
            entry["measure"]: (entry["value"], entry["met"])
            for entry in claims(rows, (0.0, 0.06), 1)
        }
        # ants took longer
        assert found["brain: Dice - that of the best peer within 5 minutes"] == (
            pytest.approx(0.01),
            True,
        )
        assert found["brain: wall time over that of the best peer within 5 minutes"] == (
            pytest.approx(100 / 217),
            True,
        )
        assert found["brain: folded, %"] == (0.06, False)
        assert found["liver, mean of four pairs: liver error over convexAdam's"] == (
            pytest.approx(1.5 / 1.8),
            True,
        )
        assert found["liver, mean of four pairs: wall time over convexAdam's"] == (2.0, False)
        assert found[
            "lung: upper end of the paired bootstrap 95 % interval of our error - convexAdam's, mm"
        ] == (0.06, False)
        assert found["lung: peak memory, GiB"] == (None, None)
        assert {met for _, met in (value for name, value in found.items() if "IDIR" in name)} == {
            None
        }
        assert all(
            met is None
            for _, met in (
                (entry["value"], entry["met"])
                for entry in claims(rows[:-1], None, 1)
                if entry["measure"].startswith("liver")
            )
        )


def test_tells_when_the_data_are_not_at_hand(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "INRREG_DATA"}
    command = [
        sys.executable,
        "-m",
        "experiments.benchmarks.peers",
        "--cases",
        "lung",
        "-o",
        str(tmp_path / "out"),
    ]
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert f"{LUNG} is not at hand" in ended.stderr
    assert not (tmp_path / "out").exists()
