"""Bad input is answered in one line, before any work: what was wrong, where, and what to do."""

import errno
import os
import re
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK
import torch
from roof_cases import (
    ALARM,
    TINY,
    Alarm,
    everywhere,
    landmarks_of,
    pair_2d,
    pair_3d,
    saved,
    with_values,
)

from inrreg import presets
from inrreg.app import command_line
from inrreg.app.register import register
from inrreg.core.errors import InputError, OutputError
from inrreg.core.grid import Grid
from inrreg.core.image import Image, LabelImage, Points
from inrreg.io import write_image, write_point_pairs
from inrreg.objective.features import RobustWindow
from inrreg.phantoms import PhantomPair
from inrreg.presets import Preset
from inrreg.transforms import Translation

Usage = namedtuple("Usage", "total used free")


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return pair_3d()


@pytest.fixture(scope="module")
def files(pair: PhantomPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good files and bad ones."""
    folder = saved(pair, tmp_path_factory.mktemp("files"))
    saved(pair_2d(), folder / "flat")
    for name, make in BAD_FILES.items():
        make(folder / name, pair)
    return folder


def nifti(
    array: np.ndarray, affine: np.ndarray | None = None
) -> Callable[[Path, PhantomPair], None]:
    return lambda path, pair: nibabel.save(
        nibabel.Nifti1Image(array, pair.fixed.grid.affine if affine is None else affine), path
    )


def changed(change: Callable[[np.ndarray], None]) -> Callable[[Path, PhantomPair], None]:
    return lambda path, pair: write_image(with_values(pair.fixed, change), path)


def cut_short(path: Path, pair: PhantomPair) -> None:
    whole = path.parent / "fixed.nii.gz"
    path.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])


def singular(path: Path, pair: PhantomPair) -> None:
    affine = pair.fixed.grid.affine.copy()
    affine[:, 2] = 2 * affine[:, 1]
    header = nibabel.Nifti1Header()
    header.set_sform(affine, code=1)
    nibabel.save(nibabel.Nifti1Image(pair.fixed.numpy(), None, header), path)


def coarse_mask(path: Path, pair: PhantomPair) -> None:
    write_image(everywhere(pair.fixed.grid.resampled(8.0), 1), path)


def beside_mask(path: Path, pair: PhantomPair) -> None:
    affine = pair.fixed.grid.affine.copy()
    affine[0, 3] += 1.0
    write_image(everywhere(Grid(pair.fixed.grid.shape, affine), 1), path)


def empty_mask(path: Path, pair: PhantomPair) -> None:
    write_image(everywhere(pair.fixed.grid, 0), path)


def flat_mask(path: Path, pair: PhantomPair) -> None:
    """1 where the fixed image is at its lowest: there is no voxel twice as bright as another."""
    values = pair.fixed.numpy()
    write_image(
        LabelImage.from_array((values == values.max()).astype(np.uint8), pair.fixed.grid), path
    )


def landmark_lines(*lines: str) -> Callable[[Path, PhantomPair], None]:
    return lambda path, pair: path.write_text("\n".join(lines) + "\n")  # type: ignore[func-returns-value]


def far_landmarks(path: Path, pair: PhantomPair) -> None:
    fixed, moving = landmarks_of(pair)
    coords = moving.coords.clone()
    coords[3] += 500.0
    write_point_pairs(fixed, Points(coords, moving.labels), path)


def flipped_landmarks(path: Path, pair: PhantomPair) -> None:
    fixed, moving = (
        Points(points.coords * torch.tensor([-1.0, -1.0, 1.0]), points.labels)
        for points in landmarks_of(pair)
    )
    write_point_pairs(fixed, moving, path)


def colour_picture(path: Path, pair: PhantomPair) -> None:
    SimpleITK.WriteImage(
        SimpleITK.GetImageFromArray(
            np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3), isVector=True
        ),
        str(path),
    )


RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
PAIRS = "label,fixed_x,fixed_y,fixed_z,moving_x,moving_y,moving_z"
BAD_FILES: dict[str, Callable[[Path, PhantomPair], None]] = {
    "text.nii.gz": lambda path, pair: path.write_text("no image"),  # type: ignore[func-returns-value]
    "cut.nii.gz": cut_short,
    "empty.nii.gz": lambda path, pair: path.write_bytes(b""),  # type: ignore[func-returns-value]
    "table.xlsx": lambda path, pair: path.write_bytes(b""),  # type: ignore[func-returns-value]
    "series.nii.gz": nifti(np.random.default_rng(0).random((6, 5, 4, 3), dtype=np.float32)),
    "colour.nii.gz": nifti(np.zeros((6, 5, 4), RGB)),
    "colour.png": colour_picture,
    "nan.nii.gz": changed(lambda array: array[0, 0, :5].fill(np.nan)),
    "inf.nii.gz": changed(lambda array: array[3, 3, :2].fill(-np.inf)),
    "constant.nii.gz": changed(lambda array: array.fill(-1000)),
    "slice.nii.gz": nifti(np.random.default_rng(0).random((6, 1, 4), dtype=np.float32)),
    "singular.nii.gz": singular,
    "mask_coarse.nii.gz": coarse_mask,
    "mask_beside.nii.gz": beside_mask,
    "mask_empty.nii.gz": empty_mask,
    "mask_flat.nii.gz": flat_mask,
    "far.csv": far_landmarks,
    "flipped.csv": flipped_landmarks,
    "one_list.csv": landmark_lines("label,x,y,z", "a,1,2,3"),
    "missing_column.csv": landmark_lines(
        "label,fixed_x,fixed_y,fixed_z,moving_x,moving_y", "a,1,2,3,4,5"
    ),
    "missing_number.csv": landmark_lines(PAIRS, "a,1,2,3,4,5"),
    "no_number.csv": landmark_lines(PAIRS, "a,1,2,3,4,five,6"),
    "no_points.csv": landmark_lines(PAIRS),
    "flat.csv": landmark_lines("label,fixed_x,fixed_y,moving_x,moving_y", "a,-41,63,-41,63"),
}


@pytest.fixture
def run(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """``register`` with a preset whose only stage must not run: exit code and standard error;
    nothing may be written.
    """
    monkeypatch.setitem(presets.PRESETS, "alarm", lambda: ALARM)
    monkeypatch.chdir(files)

    def register(*arguments: str, output: Path | None = None) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ending:
            command_line.main(
                [
                    "register",
                    *arguments,
                    "-o",
                    str(output or tmp_path / "result"),
                    *([] if "--preset" in arguments else ["--preset", "alarm"]),
                ]
            )
        printed = capsys.readouterr()
        assert printed.out == ""
        assert not (tmp_path / "result").exists()
        return int(ending.value.code or 0), printed.err

    return register


def refused(answer: tuple[int, str], code: int, pattern: str) -> None:
    """One line, without a traceback, that says what is expected."""
    assert answer[0] == code, answer[1]
    assert answer[1].count("\n") == 1
    assert answer[1].startswith("inrreg: ")
    assert re.search(pattern, answer[1]), answer[1]


GOOD = ("fixed.nii.gz", "moving.nii.gz")


@pytest.mark.parametrize(
    ("images", "pattern"),
    [
        (("nothing.nii.gz", "moving.nii.gz"), r"nothing\.nii\.gz is not there; expected a file"),
        (("fixed.nii.gz", "flat"), r"flat has no known suffix; expected one of \.nii\.gz"),
        (("fixed.nii.gz", "table.xlsx"), r"table\.xlsx has no known suffix"),
        (
            ("text.nii.gz", "moving.nii.gz"),
            r"text\.nii\.gz is no readable NIfTI file .*copied whole",
        ),
        (
            ("empty.nii.gz", "moving.nii.gz"),
            r"empty\.nii\.gz is no readable NIfTI file .*copied whole",
        ),
        (("fixed.nii.gz", "cut.nii.gz"), r"cut\.nii\.gz .*copied whole"),
        (("series.nii.gz", "moving.nii.gz"), r"series\.nii\.gz holds 3 volumes .*extract it first"),
        (
            ("fixed.nii.gz", "colour.nii.gz"),
            r"colour\.nii\.gz stores .* a voxel, .*convert colour to grey",
        ),
        (("colour.png", "flat/moving.nii.gz"), r"colour\.png .*convert colour to grey"),
        (
            ("nan.nii.gz", "moving.nii.gz"),
            r"fixed \(nan\.nii\.gz\) holds 5 voxels that are NaN or infinite.*numpy\.nan_to_num",
        ),
        (
            ("fixed.nii.gz", "inf.nii.gz"),
            r"moving \(inf\.nii\.gz\) holds 2 voxels that are NaN or infinite",
        ),
        (
            ("constant.nii.gz", "moving.nii.gz"),
            r"fixed \(constant\.nii\.gz\) is -1000 everywhere.*check that it is the right file",
        ),
        (
            ("fixed.nii.gz", "slice.nii.gz"),
            r"slice\.nii\.gz has shape \(6, 1, 4\).*store a single slice as a 2-D image",
        ),
        (
            ("singular.nii.gz", "moving.nii.gz"),
            r"singular\.nii\.gz: .*affine is singular.*repair the image header",
        ),
        (
            ("fixed.nii.gz", "flat/moving.nii.gz"),
            r"fixed\.nii\.gz is in 3-D and moving \(flat/moving\.nii\.gz\) in 2-D",
        ),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, tuple) else "",
)
def test_images(images: tuple[str, str], pattern: str, run: Callable[..., tuple[int, str]]) -> None:
    refused(run(*images), 2, pattern)


@pytest.mark.parametrize(
    ("option", "file", "pattern"),
    [
        ("--fixed-mask", "nothing.nii.gz", r"nothing\.nii\.gz is not there"),
        (
            "--fixed-mask",
            "mask_coarse.nii.gz",
            (
                r"mask_coarse\.nii\.gz\)? lies on Grid\(.*but fixed\.nii\.gz on Grid\(.*resample"
                r" the mask"
            ),
        ),
        (
            "--fixed-mask",
            "mask_beside.nii.gz",
            r"mask_beside\.nii\.gz\)? lies on Grid\(.*resample the mask",
        ),
        (
            "--moving-mask",
            "fixed_mask.nii.gz",
            r"fixed_mask\.nii\.gz\)? lies on Grid\(.*but moving\.nii\.gz on",
        ),
        (
            "--fixed-mask",
            "mask_empty.nii.gz",
            r'mask_empty\.nii\.gz\)? is empty: no voxel is above 0, and 1 means "use this"',
        ),
        (
            "--fixed-mask",
            "mask_flat.nii.gz",
            (
                r"fixed\.nii\.gz is \S+ everywhere inside fixed mask \(mask_flat\.nii\.gz\).*check"
                r" that the mask belongs"
            ),
        ),
        ("--fixed-mask", "fixed.nii.gz", r"fixed\.nii\.gz is no label image: .*threshold it first"),
    ],
)
def test_masks(option: str, file: str, pattern: str, run: Callable[..., tuple[int, str]]) -> None:
    refused(run(*GOOD, option, file), 2, pattern)


@pytest.mark.parametrize("option", ["--landmarks", "--guide-landmarks"])
@pytest.mark.parametrize(
    ("file", "pattern"),
    [
        ("nothing.csv", r"nothing\.csv is not there"),
        (
            "far.csv",
            (
                r"far\.csv \(moving\) has 1 of 40 points outside its image, the first is A3 at"
                r" .*fixed and moving are not swapped"
            ),
        ),
        (
            "flipped.csv",
            (
                r"flipped\.csv \(fixed\) has \d+ of 40 points outside its image.*negate x and y if"
                r" the file is LPS"
            ),
        ),
        ("one_list.csv", r"one_list\.csv lacks the columns fixed_x.*give it the header"),
        ("missing_column.csv", r"missing_column\.csv lacks the column moving_z"),
        (
            "missing_number.csv",
            r"missing_number\.csv, line 2: moving_z is None, not a finite number",
        ),
        ("no_number.csv", r"no_number\.csv, line 2: moving_y is 'five', not a finite number"),
        ("no_points.csv", r"no_points\.csv holds no points, only a header"),
        ("flat.csv", r"flat\.csv \(fixed\) has points in 2-D, but its image is in 3-D"),
        ("fixed.nii.gz", r"fixed\.nii\.gz has no known suffix; expected one of \.csv"),
    ],
)
def test_landmarks(
    option: str, file: str, pattern: str, run: Callable[..., tuple[int, str]]
) -> None:
    refused(run(*GOOD, option, file), 2, pattern)


@pytest.mark.parametrize(
    ("options", "pattern"),
    [
        (("--preset", "lnug"), r"no preset is called 'lnug'; choose one of default, lung"),
        (("--device", "gpu"), r"no device is called 'gpu'; use cpu, cuda or cuda:N"),
        (("--device", "mps"), r"device 'mps' is not supported; use cpu, cuda or cuda:N"),
        (
            ("--device", "cuda:99"),
            (
                r"device 'cuda:99' was asked for, but torch sees \d+ CUDA devices; use device cpu,"
                r" or run `inrreg doctor`"
            ),
        ),
        (("--threads", "0"), r"threads must be 1 or more, got 0"),
        (("--threads", "-2"), r"threads must be 1 or more, got -2"),
        (
            ("--seed", str(2**63)),
            r"seed must be a whole number of 64 bits, got 9223372036854775808",
        ),
    ],
    ids=" ".join,
)
def test_options(
    options: tuple[str, ...], pattern: str, run: Callable[..., tuple[int, str]]
) -> None:
    refused(run(*GOOD, *options), 2, pattern)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_gpu(run: Callable[..., tuple[int, str]]) -> None:
    refused(
        run(*GOOD, "--device", "cuda"),
        2,
        r"device 'cuda' was asked for, but torch sees 0 CUDA devices; use device cpu, or run"
        r" `inrreg doctor` to see why",
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--preste", "lung"), ("Unrecognized options: --preste", "--preset NAME")),
        (("--threads", "many"), ("--threads", "'many'")),
        (("--fixed-mask",), ("--fixed-mask",)),
    ],
    ids=" ".join,
)
def test_unknown_options_are_answered_with_the_nearest_one(
    options: tuple[str, ...], said: tuple[str, ...], run: Callable[..., tuple[int, str]]
) -> None:
    code, printed = run(*GOOD, *options)
    assert code == 2
    assert "Traceback" not in printed
    for text in said:
        assert text in printed


class TestOutput:
    def test_of_somebody_else(self, run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter1.tex").write_text("")
        refused(
            run(*GOOD, output=tmp_path / "thesis"),
            3,
            "thesis exists and is not a result of inrreg, so it is left alone; choose another"
            " folder or empty this one",
        )
        assert os.listdir(tmp_path / "thesis") == ["chapter1.tex"]

    def test_is_a_file(self, run: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        refused(
            run(*GOOD, output=tmp_path / "file"), 3, "file is a file; give a folder for the result"
        )

    def test_cannot_be_written(
        self, run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        refused(
            run(*GOOD),
            3,
            "cannot be written to; choose another output folder or change its permissions",
        )

    def test_on_a_full_disk(
        self, run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - 1000, 1000))
        refused(
            run(*GOOD),
            3,
            r"the disk of .* has 0 MB left and the result may need 20 MB; free some space or choose"
            r" another disk",
        )

    def test_without_room_for_a_large_image(
        self, run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The first question is asked before the images are read, the second when their size is
        known.
        """
        monkeypatch.setattr(
            shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - 20_000_000, 20_000_000)
        )
        refused(run(*GOOD), 3, "free some space or choose another disk")

    def test_is_asked_for_before_the_images_are_read(
        self, run: Callable[..., tuple[int, str]], tmp_path: Path
    ) -> None:
        (tmp_path / "file").write_text("")
        refused(
            run("nothing.nii.gz", "moving.nii.gz", output=tmp_path / "file"), 3, "file is a file"
        )

    def test_disk_full_while_writing(
        self,
        files: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        def full(*arguments: Any, **options: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setitem(presets.PRESETS, "tiny", lambda: TINY)
        monkeypatch.setattr("inrreg.io.nifti._write", full)
        with pytest.raises(SystemExit) as ending:
            command_line.main(
                [
                    "register",
                    str(files / "fixed.nii.gz"),
                    str(files / "moving.nii.gz"),
                    "-o",
                    str(tmp_path / "result"),
                    "--preset",
                    "tiny",
                    "-q",
                ]
            )
        refused(
            (int(ending.value.code or 0), capsys.readouterr().err), 3, "No space left on device"
        )
        assert os.listdir(tmp_path) == []


class TestPython:
    """What only Python can hand over wrongly."""

    def refuse(self, pair: PhantomPair, pattern: str, **arguments: Any) -> None:
        with pytest.raises(InputError, match=pattern):
            register(**({"fixed": pair.fixed, "moving": pair.moving, "preset": ALARM} | arguments))

    def test_the_alarm_would_be_heard(self, pair: PhantomPair) -> None:
        with pytest.raises(AssertionError, match="a stage ran"):
            register(pair.fixed, pair.moving, preset=ALARM)

    def test_arrays(self, pair: PhantomPair) -> None:
        self.refuse(
            pair,
            r"fixed is a ndarray; expected a path, a nibabel image.*Image\.from_array",
            fixed=pair.fixed.numpy(),
        )

    def test_several_channels(self, pair: PhantomPair) -> None:
        self.refuse(
            pair,
            "moving has 2 channels, and a registration takes one",
            moving=Image(pair.moving.data.repeat(2, 1, 1, 1), pair.moving.grid),
        )

    def test_presets(self, pair: PhantomPair) -> None:
        self.refuse(
            pair,
            "preset is a dict; give the name of one, or an inrreg.Preset",
            preset={"name": "lung"},
        )
        self.refuse(
            pair,
            "the preset 'nothing' has no stages",
            preset=Preset("nothing", "", RobustWindow(), ()),
        )
        self.refuse(pair, "preset is a Alarm", preset=Alarm())

    def test_initial_transforms(self, pair: PhantomPair) -> None:
        self.refuse(
            pair,
            r"initial is a str; give an inrreg Transform, for instance inrreg\.load",
            initial="result",
        )
        self.refuse(
            pair,
            "initial is a 2-D transform, but the images are 3-D",
            initial=Translation.by([0.0, 0.0]),
        )

    def test_unequal_numbers_of_landmarks(self, pair: PhantomPair) -> None:
        fixed, moving = landmarks_of(pair)
        short = Points(moving.coords[:-1], moving.labels[:-1], "moving points")
        for name in ("landmarks", "guide_landmarks"):
            self.refuse(
                pair,
                "fixed has 40 points and moving points has 39, but each fixed point needs its"
                " moving one",
                **{name: (fixed, short)},
            )

    @pytest.mark.parametrize(
        ("broken", "pattern"),
        [
            (np.zeros(3), r"moving landmarks .*(shape|numbers)"),
            (np.full((40, 3), np.nan), "moving landmarks have the shape .* or hold NaN"),
            (np.zeros((0, 3)), "moving landmarks have the shape"),
            ("a", "a has no known suffix"),
            (object(), "moving landmarks are no numbers"),
            ([["a", "b", "c"]], "moving landmarks are no numbers"),
        ],
        ids=["one axis", "NaN", "none", "a path", "an object", "text"],
    )
    def test_broken_landmarks(self, broken: Any, pattern: str, pair: PhantomPair) -> None:
        self.refuse(pair, pattern, landmarks=(pair.fixed_landmarks, broken))

    def test_other_things_as_landmarks(self, pair: PhantomPair) -> None:
        self.refuse(
            pair,
            r"landmarks are a Points; give a CSV path, or \(fixed, moving\)",
            landmarks=pair.fixed_landmarks,
        )
        self.refuse(pair, "landmarks are a tuple", landmarks=(pair.fixed_landmarks,))

    def test_a_mask_of_probabilities(self, pair: PhantomPair) -> None:
        self.refuse(
            pair,
            "fixed mask is no label image: .*round or threshold it first",
            fixed_mask=Image(torch.full_like(pair.fixed.data, 0.4), pair.fixed.grid, "fixed mask"),
        )

    def test_a_full_disk_after_the_work(
        self, pair: PhantomPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        result = register(pair.fixed, pair.moving, preset=TINY)
        monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**12, 10**12 - 1000, 1000))
        with pytest.raises(OutputError, match="free some space"):
            result.save(tmp_path / "result")
        monkeypatch.undo()
        assert result.save(tmp_path / "result").is_dir()  # the work is not lost
