"""The result folder: read back by ourselves and by SimpleITK, whole or not at all, and never in the
place of something that is not ours.
"""

import errno
import json
import os
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from roof_cases import TINY, landmarks_of, pair_2d, pair_3d

import inrreg
from inrreg.app import result as result_module
from inrreg.app.register import register
from inrreg.app.result import FILES, Result, check_output, load, replaced_folder
from inrreg.core.errors import FrameError, InputError, OutputError
from inrreg.core.image import Image, LabelImage
from inrreg.io import read_image
from inrreg.phantoms import PhantomPair

WRITTEN = {
    "displacement.nii.gz",
    "warped.nii.gz",
    "transform",
    "metrics.json",
    "config.json",
    "report.html",
}
LPS = np.array([-1.0, -1.0, 1.0])
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module", params=[3, 2], ids=["3-D", "2-D"])
def pair(request: pytest.FixtureRequest) -> PhantomPair:
    return pair_3d() if request.param == 3 else pair_2d()


@pytest.fixture(scope="module")
def result(pair: PhantomPair) -> Result:
    return register(pair.fixed, pair.moving, preset=TINY, landmarks=landmarks_of(pair))


@pytest.fixture(scope="module")
def folder(result: Result, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return result.save(tmp_path_factory.mktemp("results") / "result")


@pytest.fixture(scope="module")
def small() -> Result:
    pair = pair_2d()
    return register(pair.fixed, pair.moving, preset=TINY)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class TestAFolder:
    def test_holds_what_is_documented(self, folder: Path) -> None:
        assert {path.name for path in folder.iterdir()} == WRITTEN
        assert WRITTEN <= FILES
        umask = os.umask(0)
        os.umask(umask)
        # not the private mode of temporary folders
        assert folder.stat().st_mode & 0o777 == 0o777 & ~umask
        assert list(folder.parent.iterdir()) == [folder]

    def test_is_the_same_when_run_again(
        self, pair: PhantomPair, folder: Path, tmp_path: Path
    ) -> None:
        again = register(pair.fixed, pair.moving, preset=TINY, landmarks=landmarks_of(pair)).save(
            tmp_path / "again"
        )
        first, second = contents(folder), contents(again)
        assert {name for name in first if first[name] != second.get(name)} <= {
            "metrics.json",
            "report.html",
        }

    def test_metrics_and_config_are_those_of_the_result(self, result: Result, folder: Path) -> None:
        def forbid(constant: str) -> None:
            pytest.fail(f"{constant} is no strict JSON")

        for name, expected in (("metrics", result.metrics.to_json()), ("config", result.config)):
            assert (
                json.loads((folder / f"{name}.json").read_text(), parse_constant=forbid) == expected
            )

    def test_the_report_names_images_and_landmarks(self, result: Result, folder: Path) -> None:
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert f"{result.metrics.landmarks.mean_mm:.3g}" in page
        assert "Registration of moving to fixed" in page
        assert "Landmark errors" in page

    def test_warped_is_the_moving_image_on_the_fixed_grid(
        self, result: Result, pair: PhantomPair, folder: Path
    ) -> None:
        warped = read_image(folder / "warped.nii.gz")
        assert warped.grid.same_as(pair.fixed.grid)
        assert torch.equal(warped.data, result.warp(pair.moving).data)
        before, after = (
            float((image.data - pair.fixed.data).square().mean())
            for image in (result.on_grid.moving_by_headers, warped)
        )  # type: ignore[union-attr]
        assert after < 0.3 * before


@pytest.fixture(scope="module")
def field(folder: Path) -> SimpleITK.DisplacementFieldTransform:
    return SimpleITK.DisplacementFieldTransform(
        SimpleITK.ReadImage(str(folder / "displacement.nii.gz"), SimpleITK.sitkVectorFloat64)
    )


class TestOtherSoftware:
    """displacement.nii.gz as SimpleITK and nibabel read it."""

    def mapped(
        self, field: SimpleITK.DisplacementFieldTransform, points: torch.Tensor
    ) -> torch.Tensor:
        """RAS points through the LPS transform."""
        signs = LPS[: points.shape[1]]
        return torch.tensor(
            np.array([field.TransformPoint((point * signs).tolist()) for point in points.numpy()])
            * signs
        )

    def test_is_a_vector_field_of_intent_1007(self, result: Result, folder: Path) -> None:
        image = nibabel.load(folder / "displacement.nii.gz")
        d = result.grid.ndim
        assert image.shape == (*result.grid.shape, *[1] * (4 - d), d)
        assert int(image.header["intent_code"]) == 1007
        assert image.get_data_dtype() == np.float32

    def test_maps_voxel_centres_like_the_transform(
        self, result: Result, field: SimpleITK.DisplacementFieldTransform
    ) -> None:
        inner = result.grid.cropped([1] * result.grid.ndim, [n - 1 for n in result.grid.shape])
        points = inner.points(torch.float64).reshape(-1, result.grid.ndim)[::7]
        # float32 displacements, and an affine that NIfTI keeps in single precision at some 100 mm
        # from the origin
        torch.testing.assert_close(
            self.mapped(field, points), result.transform(points), atol=2e-4, rtol=0
        )

    def test_maps_landmarks_like_the_transform(
        self, result: Result, pair: PhantomPair, field: SimpleITK.DisplacementFieldTransform
    ) -> None:
        points = pair.fixed_landmarks.coords
        error = (self.mapped(field, points) - result.transform(points)).norm(dim=1)
        # linear interpolation of a spline of 16 mm over voxels of up to 4.3 mm
        assert float(error.max()) < 0.15
        assert float((result.transform(points) - points).norm(dim=1).mean()) > 3.0


class TestLoading:
    def test_gives_the_same_continuous_map(
        self, result: Result, pair: PhantomPair, folder: Path
    ) -> None:
        loaded = inrreg.load(folder)
        points = pair.fixed_landmarks.coords
        assert torch.equal(loaded.transform(points), result.transform(points))
        assert torch.equal(loaded.transform.jacobian(points), result.transform.jacobian(points))
        assert loaded.grid.same_as(result.grid, 0.0)
        assert loaded.outcome is result.outcome
        assert (loaded.metrics, loaded.config) == (result.metrics, result.config)
        assert repr(loaded) == repr(result)

    def test_inverse_undoes_it(self, pair: PhantomPair, folder: Path) -> None:
        transform = inrreg.load(folder).transform
        points = pair.fixed_landmarks.coords
        # the tolerance it promises
        torch.testing.assert_close(
            transform.inverse()(transform(points)), points, atol=0.05, rtol=0
        )

    def test_jacobian_is_the_derivative(self, pair: PhantomPair, folder: Path) -> None:
        transform, points, step = inrreg.load(folder).transform, pair.fixed_landmarks.coords, 1e-3
        basis = torch.eye(points.shape[1], dtype=torch.float64)
        columns = [
            (transform(points + step * e) - transform(points - step * e)) / (2 * step)
            for e in basis
        ]
        # kinks of the spline aside, single-precision coefficients
        torch.testing.assert_close(
            transform.jacobian(points), torch.stack(columns, -1), atol=1e-3, rtol=0
        )

    def test_warps_images_and_labels(self, pair: PhantomPair, folder: Path) -> None:
        loaded = inrreg.load(folder)
        labels = LabelImage.from_array(7 * pair.moving_mask.numpy(), pair.moving.grid, "organ")
        warped = loaded.warp(labels)
        assert isinstance(warped, LabelImage)
        assert set(warped.data.unique().tolist()) == {0, 7}
        assert torch.equal(loaded.warp(pair.moving).data, read_image(folder / "warped.nii.gz").data)
        assert not torch.equal(
            loaded.warp(pair.moving, "cubic").data, loaded.warp(pair.moving).data
        )

    def test_is_saved_again_as_it_was(self, folder: Path, tmp_path: Path) -> None:
        copy = load(folder).save(tmp_path / "copy")
        assert contents(copy) == contents(folder)
        load(copy).save(copy)  # in its own place
        assert contents(copy) == contents(folder)

    def test_is_not_saved_again_once_its_folder_is_gone(self, folder: Path, tmp_path: Path) -> None:
        loaded = load(shutil.copytree(folder, tmp_path / "copy"))
        shutil.rmtree(tmp_path / "copy")
        with pytest.raises(InputError, match=r"no result in .*copy"):
            loaded.save(tmp_path / "again")
        assert list(tmp_path.iterdir()) == []

    def test_shows_the_images_that_it_is_given(
        self, result: Result, pair: PhantomPair, folder: Path
    ) -> None:
        figure = load(folder).show(fixed=pair.fixed, moving=pair.moving)
        assert len(figure.axes) == len(result.show().axes) >= 2
        with pytest.raises(InputError, match="loaded without its images"):
            load(folder).show()

    @pytest.mark.parametrize(
        "damage", ["metrics.json", "transform", "no grid", "no outcome", "not text"]
    )
    def test_of_a_damaged_folder_is_refused(
        self, damage: str, folder: Path, tmp_path: Path
    ) -> None:
        copy = Path(shutil.copytree(folder, tmp_path / "copy"))
        if damage == "metrics.json":
            (copy / damage).unlink()
        elif damage == "transform":
            (copy / damage / "weights.safetensors").write_bytes(b"nothing")
        elif damage == "no grid":
            (copy / "config.json").write_text('{"inrreg": "0.1.0"}')
        elif damage == "no outcome":
            (copy / "metrics.json").write_text('{"outcome": {"name": "fell asleep"}}')
        else:
            (copy / "metrics.json").write_text('{"outcome": ')
        with pytest.raises(InputError, match=r"copy is a damaged result .*copy it again or repeat"):
            load(copy)

    @pytest.mark.parametrize(
        "config", [None, "[1]", '["inrreg"]', '"inrreg"', "3", "{}", "no json"]
    )
    def test_of_what_is_no_result_is_refused(self, config: str | None, tmp_path: Path) -> None:
        if config is not None:
            (tmp_path / "config.json").write_text(config)
        with pytest.raises(
            InputError, match=r"is no result folder of inrreg \(it has no config.json of ours\)"
        ):
            load(tmp_path)

    def test_of_nothing_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="there is no such folder"):
            load(tmp_path / "nothing")


class TestWarping:
    def test_takes_what_a_user_has(self, small: Result, tmp_path: Path) -> None:
        assert small.pair is not None
        moving = small.pair.moving
        expected = small.warp(moving).data
        moving.save(tmp_path / "moving.nii.gz")
        for source in (
            tmp_path / "moving.nii.gz",
            str(tmp_path / "moving.nii.gz"),
            moving.to_nibabel(),
            inrreg.io.to_sitk(moving),
        ):
            torch.testing.assert_close(small.warp(source).data, expected)
        array = moving.numpy()
        torch.testing.assert_close(small.warp(array, grid=moving.grid).data, expected)

    def test_labels_take_the_nearest_voxel(self, small: Result, tmp_path: Path) -> None:
        assert small.pair is not None
        moving = small.pair.moving
        organ = (moving.numpy() > moving.numpy().mean()).astype(np.uint8) * 7
        labels = LabelImage.from_array(organ, moving.grid, "organ")
        labels.save(tmp_path / "labels.nii.gz")
        expected = small.warp(labels).data
        assert set(expected.unique().tolist()) == {0, 7}
        read = small.warp(tmp_path / "labels.nii.gz", "nearest")
        assert isinstance(read, LabelImage)
        assert torch.equal(read.data, expected)
        assert len(small.warp(tmp_path / "labels.nii.gz").data.unique()) > 2
        image = small.warp(Image.from_array(organ, moving.grid), "nearest")
        assert torch.equal(image.data.int(), expected)

    def test_goes_to_any_grid(self, small: Result, tmp_path: Path) -> None:
        assert small.pair is not None
        grid = small.grid.cropped((3, 4), (20, 21))
        part = Image.from_array(np.zeros(grid.shape, np.float32), grid)
        part.save(tmp_path / "part.nii.gz")
        whole = small.warp(small.pair.moving).data
        for reference in (grid, part, tmp_path / "part.nii.gz"):
            warped = small.warp(small.pair.moving, reference=reference)
            assert warped.grid.same_as(grid)
            torch.testing.assert_close(warped.data, whole[:, 3:20, 4:21], atol=1e-3, rtol=1e-3)

    def test_goes_the_other_way(self, small: Result) -> None:
        assert small.pair is not None
        fixed, moving = small.pair.fixed, small.pair.moving
        back = small.warp_inverse(fixed)
        assert back.grid.same_as(moving.grid)
        points = moving.grid.points(dtype=torch.float64)
        voxel = fixed.grid.to_voxel(small.transform.inverse()(points[12, 11]))
        low = voxel.floor().long()
        around = fixed.data[0, low[0] : low[0] + 2, low[1] : low[1] + 2]
        assert around.min() - 1e-4 <= back.data[0, 12, 11] <= around.max() + 1e-4

    def test_refuses_what_it_cannot_do(self, small: Result) -> None:
        assert small.pair is not None
        moving = small.pair.moving
        labels = LabelImage.from_array(np.ones(moving.grid.shape, np.uint8), moving.grid)
        with pytest.raises(InputError, match="linear interpolation would mix"):
            small.warp(labels, "linear")
        with pytest.raises(InputError, match="give `grid=`"):
            small.warp(moving.numpy())
        with pytest.raises(InputError, match="has a grid of its own"):
            small.warp(moving, grid=moving.grid)
        with pytest.raises(FrameError, match="does not lie on"):
            small.warp(np.zeros((2, 3)), grid=moving.grid)
        with pytest.raises(InputError, match="no interpolation is called 'sinc'"):
            small.warp(moving, "sinc")  # type: ignore[arg-type]


def test_metrics_have_types_and_give_the_file(result: Result, folder: Path) -> None:
    content = json.loads((folder / "metrics.json").read_text())
    assert list(result.metrics.to_json().items()) == list(content.items())
    assert result.metrics.landmarks is not None
    assert result.metrics.landmarks.mean_mm == content["landmarks"]["all"]["mean_mm"]
    group = result.metrics.landmarks.groups["A"]
    assert group.median_mm == content["landmarks"]["groups"]["A"]["median_mm"]
    level = result.metrics.stages[1].levels[1]
    assert level.cost_last == content["stages"][1]["cost_last"][1]
    assert load(folder).metrics == result.metrics


def test_a_notebook_shows_a_table(result: Result) -> None:
    assert f"{result.metrics.time_s.total:.1f} s" in result._repr_html_()


def test_a_result_is_described_in_one_line(result: Result) -> None:
    assert "\n" not in repr(result)
    assert "landmark error 6.00 -> " in repr(result)
    assert str(result.grid) in repr(result)


class TestReplacing:
    def test_an_older_result(self, small: Result, tmp_path: Path) -> None:
        target = small.save(tmp_path / "result")
        old = contents(target)
        other = Result(
            inrreg.load(target).transform,
            small.grid,
            small.outcome,
            replace(small.metrics, notes=("newer",)),
            small.config,
            small.pair,
            None,
            small.history,
        )
        other.save(target)
        assert json.loads((target / "metrics.json").read_text())["notes"] == ["newer"]
        assert contents(target)["displacement.nii.gz"] == old["displacement.nii.gz"]
        assert os.listdir(tmp_path) == ["result"]

    def test_an_empty_folder_and_one_that_is_not_there(self, small: Result, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        for target in (tmp_path / "empty", tmp_path / "several" / "new" / "ones"):
            assert {path.name for path in small.save(target).iterdir()} == WRITTEN

    @pytest.mark.parametrize("names", [["notes.txt"], ["config.json"], ["report.html"]])
    def test_never_a_folder_of_somebody_else(
        self, names: list[str], small: Result, tmp_path: Path
    ) -> None:
        for name in names:
            (tmp_path / name).write_text("{}")
        with pytest.raises(
            OutputError, match="exists and is not a result of inrreg, so it is left alone"
        ):
            small.save(tmp_path)
        assert sorted(os.listdir(tmp_path)) == names

    def test_never_a_result_with_files_of_somebody_else(
        self, small: Result, tmp_path: Path
    ) -> None:
        target = small.save(tmp_path / "result")
        (target / "labels_warped.nii.gz").write_bytes(b"hours of work")
        before = contents(target)
        with pytest.raises(
            OutputError,
            match=(
                r"holds other files too \(labels_warped.nii.gz\), which would be lost; move them"
                r" away"
            ),
        ):
            small.save(target)
        assert contents(target) == before

    def test_never_the_folder_one_is_in(
        self, small: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(OutputError, match="the folder you are in; choose a folder inside it"):
            small.save(".")
        assert list(tmp_path.iterdir()) == []

    def test_never_a_mount_point(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(Path, "is_mount", lambda self: True)
        with pytest.raises(OutputError, match="as it is a mount point; choose a folder inside it"):
            check_output(tmp_path)

    def test_through_a_link_leaves_what_it_points_to(self, small: Result, tmp_path: Path) -> None:
        real = small.save(tmp_path / "real")
        (tmp_path / "link").symlink_to(real)
        small.save(tmp_path / "link")
        assert not (tmp_path / "link").is_symlink()
        assert {path.name for path in real.iterdir()} == WRITTEN


def fail_with(error: BaseException) -> Any:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    return fail


NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class TestAFailureWhileWriting:
    """Leaves the old result as it was, and nothing beside it."""

    @pytest.fixture
    def target(self, small: Result, tmp_path: Path) -> Path:
        return small.save(tmp_path / "result")

    def check(self, target: Path, before: dict[str, bytes]) -> None:
        assert contents(target) == before
        assert os.listdir(target.parent) == ["result"]

    @pytest.mark.parametrize(
        "step", ["write_displacement", "write_image", "save_transform", "write_json"]
    )
    def test_at_any_step(
        self, step: str, small: Result, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = contents(target)
        monkeypatch.setattr(result_module, step, fail_with(NO_SPACE))
        with pytest.raises(
            OutputError,
            match=r"could not be written to .*result \(No space left on device\); free some space",
        ):
            small.save(target)
        self.check(target, before)

    def test_of_the_tensors(
        self, small: Result, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from safetensors import SafetensorError

        before = contents(target)
        monkeypatch.setattr(
            "inrreg.transforms.serialise.save",
            fail_with(SafetensorError("I/O error: No space left on device")),
        )
        with pytest.raises(OutputError, match="No space left on device"):
            small.save(target)
        self.check(target, before)

    def test_of_the_report(
        self, small: Result, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = contents(target)
        monkeypatch.setattr("inrreg.report.registration_report", fail_with(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            small.save(target)
        self.check(target, before)

    def test_by_a_defect_of_ours(
        self, small: Result, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = contents(target)
        monkeypatch.setattr(result_module, "write_image", fail_with(ZeroDivisionError()))
        with pytest.raises(ZeroDivisionError):
            small.save(target)
        self.check(target, before)

    def test_in_the_last_moment(
        self, small: Result, target: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The old result is out of its place already when the new one cannot be put there."""
        before, rename = contents(target), Path.rename

        def fail_for_the_new_one(self: Path, other: Path) -> Path:
            if self.name == "new":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return rename(self, other)

        monkeypatch.setattr(Path, "rename", fail_for_the_new_one)
        with pytest.raises(OutputError, match="Input/output error"):
            small.save(target)
        self.check(target, before)

    def test_without_an_older_result_leaves_nothing(
        self, small: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(result_module, "write_image", fail_with(NO_SPACE))
        with pytest.raises(OutputError):
            small.save(tmp_path / "new")
        assert list(tmp_path.iterdir()) == []

    def test_a_parent_that_cannot_be_made(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            Path, "mkdir", fail_with(OSError(errno.EROFS, os.strerror(errno.EROFS)))
        )
        with (
            pytest.raises(OutputError, match=r"cannot be written \(Read-only file system\)"),
            replaced_folder(tmp_path / "a" / "b"),
        ):
            pytest.fail("the body ran")


class TestCheckingTheOutput:
    def test_a_good_place(self, tmp_path: Path, result: Result) -> None:
        check_output(tmp_path / "not" / "there" / "yet", result.grid)
        assert list(tmp_path.iterdir()) == []

    def test_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "result").write_text("")
        with pytest.raises(OutputError, match="result is a file; give a folder"):
            check_output(tmp_path / "result")

    def test_below_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match=r"result cannot be made, because .*file is a file"):
            check_output(tmp_path / "file" / "result")

    def test_a_parent_that_cannot_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        with pytest.raises(
            OutputError,
            match="cannot be written to; choose another output folder or change its permissions",
        ):
            check_output(tmp_path / "result")

    def test_a_folder_that_cannot_be_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            Path, "iterdir", fail_with(PermissionError(errno.EACCES, os.strerror(errno.EACCES)))
        )
        with pytest.raises(OutputError, match=r"cannot be looked at \(Permission denied\)"):
            check_output(tmp_path)

    def test_a_full_disk(
        self, tmp_path: Path, result: Result, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - 20_000_001, 20_000_001)
        )
        check_output(tmp_path / "result")
        with pytest.raises(
            OutputError, match=r"has 20 MB left and the result may need 20 MB; free some space"
        ):
            check_output(tmp_path / "result", result.grid)


def test_moving_images_keep_their_array_type(small: Result, tmp_path: Path) -> None:
    pair = pair_2d()
    whole = Image.from_array(
        (200 * pair.moving.numpy()).clip(0, 255).astype(np.uint8), pair.moving.grid, "moving"
    )
    target = replace(small, pair=replace(small.pair, moving=whole), on_grid=None).save(
        tmp_path / "result"
    )  # type: ignore[type-var]
    assert nibabel.load(target / "warped.nii.gz").get_data_dtype() == np.uint8
