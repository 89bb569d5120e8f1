"""DIR-Lab cases in the exact formats of their owners, small ones: what is loaded lies where the
files say, and what was flipped, swapped or renamed is refused.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from inrreg.core.errors import InputError
from inrreg.io import dirlab
from inrreg.io.dirlab import dirlab_cases, read_dirlab
from inrreg.io.dirlab_tables import CASES, PublishedCase

SHAPE, SPACING, SHIFT, COUNT = (26, 26, 18), (1.2, 1.2, 2.5), np.array([1, -2, 3]), 40
INITIAL_MM = float(np.linalg.norm(SHIFT * SPACING))

LAYOUTS = {
    "case1": (
        "Case1Pack/Images/case1_{}_s.img",
        "Case1Pack/ExtremePhases/Case1_300_{}_xyz.txt",
        ("T00", "T50"),
    ),
    "case2": (
        "Case2Pack/Images/case2_{}-ssm.img",
        "Case2Pack/ExtremePhases/Case2_300_{}_xyz.txt",
        ("T00", "T50"),
    ),
    "case8": (
        "Case8Deploy/Images/case8_{}.img",
        "Case8Deploy/extremePhases/case8_dirLab300_{}_xyz.txt",
        ("T00", "T50"),
    ),
    "case10": (
        "Case10Pack/Images/case10_{}.img",
        "Case10Pack/extremePhases/case10_dirLab300_{}_xyz.txt",
        ("T00", "T50"),
    ),
    "copd1": ("copd1/copd1/copd1_{}CT.img", "copd1/copd1/copd1_300_{}_xyz_r1.txt", ("iBH", "eBH")),
    "copd10": ("copd10/copd10_{}CT.img", "copd10/copd10_300_{}_xyz_r1.txt", ("iBH", "eBH")),
}


@dataclass(frozen=True)
class Stored:
    """What the files of a case hold: volumes in the order (column, row, slice), landmarks counted
    from 1; inhale, then exhale.
    """

    volumes: tuple[np.ndarray, np.ndarray]
    landmarks: tuple[np.ndarray, np.ndarray]

    def write(self, folder: Path, name: str) -> Path:
        image, text, states = LAYOUTS[name]
        for volume, landmarks, state in zip(self.volumes, self.landmarks, states, strict=True):
            for path in (folder / image.format(state), folder / text.format(state)):
                path.parent.mkdir(parents=True, exist_ok=True)
            # As distributed: 16 bits, little end first, the column counting fastest; no header.
            volume.transpose(2, 1, 0).astype("<i2").tofile(folder / image.format(state))
            np.savetxt(folder / text.format(state), landmarks, fmt="%d", delimiter="\t")
        return folder


def stored_case(air: int = 24) -> Stored:
    """A texture that every patch tells from every other, moved by whole voxels, with a slab of
    noisy air.
    """
    rng = np.random.default_rng(0)
    inhale = 700 + 400 * gaussian_filter(rng.normal(size=SHAPE), 0.7, mode="wrap")
    inhale[:, :5] = air + 6 * rng.normal(size=(SHAPE[0], 5, SHAPE[2]))
    inhale = np.rint(inhale).astype(np.int16)
    places = np.stack([rng.integers(8, n - 7, COUNT) for n in SHAPE], 1)
    return Stored((inhale, np.roll(inhale, SHIFT, (0, 1, 2))), (places, places + SHIFT))


@pytest.fixture(autouse=True)
def small_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every case of the table as small as what is written here, with the error that these landmarks
    have.
    """
    for name, entry in CASES.items():
        monkeypatch.setitem(
            CASES, name, PublishedCase(entry.cohort, SHAPE, SPACING, {COUNT: INITIAL_MM})
        )


REAL = dict(CASES)


def test_the_table_is_the_published_one() -> None:
    for cohort, prefix, mean_of_300 in (("4DCT", "case", 8.46), ("COPDgene", "copd", 23.36)):
        entries = [REAL[f"{prefix}{i}"] for i in range(1, 11)]
        assert {e.cohort for e in entries} == {cohort}
        assert np.mean([e.initial_mm[300] for e in entries]) == pytest.approx(
            mean_of_300, abs=0.005
        )
        for e in entries:
            assert e.shape[0] == e.shape[1] in (256, 512)
            assert e.spacing[0] == e.spacing[1] < e.spacing[2] == 2.5
            of_300, of_all = e.initial_mm.values()
            assert of_300 == pytest.approx(of_all, abs=1.4)  # a subset of the same landmarks
    assert (
        sum(max(n for n in REAL[f"copd{i}"].initial_mm if n != 300) for i in range(1, 11)) == 7298
    )
    assert 2 * np.prod(REAL["case5"].shape) == 13_893_632  # bytes, as unpacked
    assert len(REAL) == 20


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_naming_is_found_and_lies_where_the_files_say(tmp_path: Path, name: str) -> None:
    stored = stored_case()
    case = read_dirlab(stored.write(tmp_path, name), name)
    assert (case.name, case.cohort, case.initial_mm) == (
        name,
        CASES[name].cohort,
        pytest.approx(INITIAL_MM),
    )
    for image, points, volume, landmarks in zip(
        (case.fixed, case.moving),
        (case.fixed_landmarks, case.moving_landmarks),
        stored.volumes,
        stored.landmarks,
        strict=True,
    ):
        np.testing.assert_array_equal(image.numpy(), np.maximum(volume - 1024.0, -1024.0))
        assert image.dtype == np.int16
        # the file counts from 1
        np.testing.assert_allclose(
            image.grid.to_voxel(points.coords).numpy(), landmarks - 1, atol=1e-9
        )
        at_landmarks = image.numpy()[
            tuple(np.rint(image.grid.to_voxel(points.coords).numpy()).astype(int).T)
        ]
        np.testing.assert_array_equal(
            at_landmarks, np.maximum(volume[tuple(landmarks.T - 1)] - 1024.0, -1024.0)
        )
    assert dirlab_cases(tmp_path) == [name]


def test_the_frame_is_ras(tmp_path: Path) -> None:
    """Columns run to the patient's left, rows to the back, slices to the feet, the volume
    centred.
    """
    grid = read_dirlab(stored_case().write(tmp_path, "case1"), "case1").fixed.grid
    np.testing.assert_allclose(grid.direction, -np.eye(3))
    np.testing.assert_allclose(grid.spacing, SPACING)
    np.testing.assert_allclose(grid.center, 0, atol=1e-9)


def test_cases_are_told_apart_and_listed_in_order(tmp_path: Path) -> None:
    for name in ("copd1", "case10", "case1"):
        stored_case().write(tmp_path, name)
    assert dirlab_cases(tmp_path) == ["case1", "case10", "copd1"]
    assert "Case1Pack" in read_dirlab(tmp_path, "case1").fixed.name


def flipped(volume: np.ndarray) -> np.ndarray:
    return volume[:, :, ::-1]


MISREAD: dict[str, tuple[Callable[[Stored], Stored], str]] = {
    "landmark files swapped": (
        lambda s: replace(s, landmarks=s.landmarks[::-1]),
        "with the two landmark files swapped",
    ),
    "image files swapped": (
        lambda s: replace(s, volumes=s.volumes[::-1]),
        "with the two landmark files swapped",
    ),
    "both images flipped": (
        lambda s: replace(s, volumes=tuple(map(flipped, s.volumes))),
        "with the slices of both flipped",
    ),
    "inhale image flipped": (
        lambda s: replace(s, volumes=(flipped(s.volumes[0]), s.volumes[1])),
        "with the slices of the inhale image flipped",
    ),
    "exhale image flipped": (
        lambda s: replace(s, volumes=(s.volumes[0], flipped(s.volumes[1]))),
        "with the slices of the exhale image flipped",
    ),
    "columns x and y exchanged": (
        lambda s: replace(s, landmarks=tuple(a[:, [1, 0, 2]] for a in s.landmarks)),
        "with x and y exchanged",
    ),
}


@pytest.mark.parametrize("what", MISREAD)
def test_what_keeps_the_initial_error_is_seen_in_the_images(tmp_path: Path, what: str) -> None:
    """The mean distance of landmarks does not change by any of these."""
    spoil, message = MISREAD[what]
    with pytest.raises(InputError, match=f"do not agree at the landmarks.*{message}"):
        read_dirlab(spoil(stored_case()).write(tmp_path, "case1"), "case1")


def test_images_without_texture_prove_nothing(tmp_path: Path) -> None:
    flat = replace(stored_case(), volumes=(np.full(SHAPE, 24, np.int16),) * 2)
    with pytest.raises(InputError, match="do not agree"):
        read_dirlab(flat.write(tmp_path, "case1"), "case1")


WRONG: dict[str, Callable[[Stored], Stored]] = {
    "slices of one landmark file flipped": lambda s: replace(
        s, landmarks=(s.landmarks[0], s.landmarks[1] * [1, 1, -1] + [0, 0, SHAPE[2] + 1])
    ),
    "one file sorted otherwise": lambda s: replace(
        s, landmarks=(s.landmarks[0], s.landmarks[1][::-1])
    ),
    "both files of one phase": lambda s: replace(s, landmarks=(s.landmarks[0], s.landmarks[0])),
    "one file counted from 0": lambda s: replace(s, landmarks=(s.landmarks[0], s.landmarks[1] - 1)),
}


@pytest.mark.parametrize("what", WRONG)
def test_another_initial_error_than_the_published_is_refused(tmp_path: Path, what: str) -> None:
    with pytest.raises(
        InputError,
        match=(
            r"apart in the mean, and 7\.97 mm .* is published .* slices .* flipped, a landmark file"
            r" .* spacing is wrong"
        ),
    ):
        read_dirlab(WRONG[what](stored_case()).write(tmp_path, "case1"), "case1")


def test_a_wrong_spacing_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "case1", replace(CASES["case1"], spacing=(1.2, 1.2, 2.48)))
    with pytest.raises(InputError, match="spacing is wrong"):
        read_dirlab(stored_case().write(tmp_path, "case1"), "case1")


def test_rounding_of_the_published_error_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        CASES, "case1", replace(CASES["case1"], initial_mm={COUNT: round(INITIAL_MM, 2)})
    )
    assert read_dirlab(stored_case().write(tmp_path, "case1"), "case1").initial_mm == pytest.approx(
        INITIAL_MM, abs=1e-9
    )


@pytest.mark.parametrize(
    ("bad", "message"),
    [((0, 5, 5), "counted from 0"), ((5, 5, SHAPE[2] + 1), "belongs to another case")],
)
def test_landmarks_outside_the_volume_are_refused(
    tmp_path: Path, bad: tuple[int, int, int], message: str
) -> None:
    stored = stored_case()
    stored.landmarks[1][3] = bad
    with pytest.raises(
        InputError, match=rf"T50_xyz.txt, line 4: \[{bad[0]}, {bad[1]}, {bad[2]}\].*{message}"
    ):
        read_dirlab(stored.write(tmp_path, "case1"), "case1")


@pytest.mark.parametrize("text", ["index\n40\n1 2 3\n", "1 2\n3 4\n", "1.5 2 3\n", "1 2 3\n4 5\n"])
def test_other_tables_are_refused(tmp_path: Path, text: str) -> None:
    stored_case().write(tmp_path, "case1")
    (tmp_path / "Case1Pack/ExtremePhases/Case1_300_T00_xyz.txt").write_text(text)
    with pytest.raises(InputError, match=r"Case1_300_T00_xyz.txt .*expected three whole numbers"):
        read_dirlab(tmp_path, "case1")


def test_another_number_of_landmarks_is_refused(tmp_path: Path) -> None:
    stored = stored_case()
    fewer = replace(stored, landmarks=tuple(a[:-1] for a in stored.landmarks))
    with pytest.raises(
        InputError,
        match=f"have {COUNT - 1} and {COUNT - 1} landmarks; case1 is published with {COUNT}",
    ):
        read_dirlab(fewer.write(tmp_path, "case1"), "case1")


@pytest.mark.parametrize("change", [-2, 2 * SHAPE[0] * SHAPE[1]])
def test_a_file_of_another_size_is_refused(tmp_path: Path, change: int) -> None:
    stored_case().write(tmp_path, "case1")
    path = tmp_path / "Case1Pack/Images/case1_T50_s.img"
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + bytes(change))
    expected = 2 * np.prod(SHAPE)
    with pytest.raises(
        InputError,
        match=(
            f"case1_T50_s.img has {expected + change} bytes, and the volume of case1 has {expected}"
            " .*slices"
        ),
    ):
        read_dirlab(tmp_path, "case1")


@pytest.mark.parametrize(
    ("missing", "what"),
    [
        ("Images/case1_T50_s.img", "exhale image of case1"),
        ("ExtremePhases/Case1_300_T00_xyz.txt", "inhale landmarks of case1"),
    ],
)
def test_a_missing_file_is_named(tmp_path: Path, missing: str, what: str) -> None:
    stored_case().write(tmp_path, "case1")
    (tmp_path / "Case1Pack" / missing).unlink()
    with pytest.raises(InputError, match=f"holds no {what}.*expected a file named like case1_"):
        read_dirlab(tmp_path, "case1")


def test_two_candidates_are_named(tmp_path: Path) -> None:
    stored_case().write(tmp_path, "case1")
    images = tmp_path / "Case1Pack/Images"
    (images / "case1_T00.img").write_bytes((images / "case1_T00_s.img").read_bytes())
    with pytest.raises(
        InputError,
        match=r"2 candidates for the inhale image of case1: .*case1_T00.img, .*case1_T00_s.img",
    ):
        read_dirlab(tmp_path, "case1")


def test_other_names_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"no DIR-Lab case is called 'case11'; choose case1 ... case10"
    ):
        read_dirlab(tmp_path, "case11")
    with pytest.raises(InputError, match="is no folder"):
        read_dirlab(tmp_path / "nowhere", "case1")
    assert dirlab_cases(tmp_path) == []


@pytest.mark.parametrize(("air", "offset"), [(24, -1024), (30, -1024), (0, -1000), (-5, -1000)])
def test_the_offset_puts_air_at_minus_1000(tmp_path: Path, air: int, offset: int) -> None:
    stored = stored_case(air)
    case = read_dirlab(stored.write(tmp_path, "copd1"), "copd1")
    np.testing.assert_array_equal(
        case.moving.numpy(), np.maximum(stored.volumes[1].astype(float) + offset, -1024)
    )
    assert abs(np.median(case.fixed.numpy()[:, :5]) + 1000) < 12


@pytest.mark.parametrize("padding", [-2000, 0])
def test_padding_is_not_taken_for_air(tmp_path: Path, padding: int) -> None:
    stored = stored_case()
    for volume in stored.volumes:
        volume[:7] = volume[-7:] = padding
    fixed = read_dirlab(stored.write(tmp_path, "case1"), "case1").fixed.numpy()
    assert set(np.unique(fixed[:7])) == {max(padding - 1024, dirlab.LOWEST_HU)}


def test_without_air_the_offset_must_be_given(tmp_path: Path) -> None:
    stored = stored_case(air=600)
    stored.write(tmp_path, "case1")
    with pytest.raises(InputError, match=r"hold no air.*give hu_offset"):
        read_dirlab(tmp_path, "case1")
    np.testing.assert_array_equal(
        read_dirlab(tmp_path, "case1", hu_offset=-1010).fixed.numpy(), stored.volumes[0] - 1010.0
    )
