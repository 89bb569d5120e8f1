"""Landmarks: the frame each format states, labels, pairs, and messages that point at the line."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from inrreg.core.errors import FrameError, InputError, OutputError
from inrreg.core.image import Points
from inrreg.io import pair_points, read_point_pairs, read_points, write_point_pairs, write_points

RAS = np.array([[1.5, -20.25, 300.0], [-4.0, 5.0, -6.125]])
LPS = RAS * (-1, -1, 1)


def text(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def markups(path: Path, positions: np.ndarray, **keys: object) -> Path:
    controls = [
        {"label": f"F-{i}", "position": p} for i, p in enumerate(positions.tolist(), start=1)
    ]
    path.write_text(
        json.dumps({"markups": [{"type": "Fiducial", "controlPoints": controls, **keys}]})
    )
    return path


class TestTables:
    @given(
        coords=st.lists(
            st.lists(st.floats(-1e4, 1e4), min_size=3, max_size=3), min_size=1, max_size=5
        ),
        d=st.sampled_from((2, 3)),
    )
    def test_round_trip_keeps_every_digit(
        self, tmp_path_factory: pytest.TempPathFactory, coords: list[list[float]], d: int
    ) -> None:
        path = tmp_path_factory.mktemp("points") / "p.csv"
        points = Points.from_array(
            np.array(coords)[:, :d], [f'L "{i}", left' for i in range(len(coords))]
        )
        write_points(points, path)
        back = read_points(path)
        assert torch.equal(back.coords, points.coords)
        assert back.labels == points.labels

    def test_a_list(self, tmp_path: Path) -> None:
        points = read_points(
            text(tmp_path / "p.csv", "label,x,y,z", "carina,1.5,-20.25,300", "apex,-4,5,-6.125")
        )
        np.testing.assert_array_equal(points.coords.numpy(), RAS)
        assert points.labels == ("carina", "apex")
        assert points.coords.dtype == torch.float64

    def test_labels_are_optional_and_columns_stand_in_any_order(self, tmp_path: Path) -> None:
        points = read_points(
            text(
                tmp_path / "p.csv",
                "\ufeffz, Y ,x,remark",
                "300, -20.25, 1.5, here",
                "",
                "-6.125,5,-4,",
            )
        )
        np.testing.assert_array_equal(points.coords.numpy(), RAS)
        assert points.labels == ("1", "2")

    def test_pairs(self, tmp_path: Path) -> None:
        fixed, moving = read_point_pairs(
            text(
                tmp_path / "p.csv",
                "label,fixed_x,fixed_y,fixed_z,moving_x,moving_y,moving_z",
                "a,1.5,-20.25,300,1,2,3",
                "b,-4,5,-6.125,4,5,6",
            )
        )
        np.testing.assert_array_equal(fixed.coords.numpy(), RAS)
        np.testing.assert_array_equal(moving.coords.numpy(), [[1, 2, 3], [4, 5, 6]])
        assert fixed.labels == moving.labels == ("a", "b")
        assert (fixed.name, moving.name) == (
            f"{tmp_path / 'p.csv'} (fixed)",
            f"{tmp_path / 'p.csv'} (moving)",
        )

    @pytest.mark.parametrize("d", [2, 3])
    def test_pairs_round_trip(self, d: int, tmp_path: Path) -> None:
        fixed, moving = Points.from_array(RAS[:, :d], ["a", "b"]), Points.from_array(LPS[:, :d] / 3)
        write_point_pairs(fixed, moving, tmp_path / "p.csv")
        back = read_point_pairs(tmp_path / "p.csv")
        assert torch.equal(back[0].coords, fixed.coords)
        assert torch.equal(back[1].coords, moving.coords)
        assert back[1].labels == ("a", "b")

    @pytest.mark.parametrize(
        ("lines", "what"),
        [
            (["label,x,z", "a,1,2"], "lacks the column y"),
            (["label,fixed_x,fixed_y,fixed_z", "a,1,2,3"], "lacks the columns x, y"),
            (["1,2,3", "4,5,6"], "its first line is '1,2,3'"),
            (["label,x,y,z", "a,1,2,3", "b,1,two,3"], "line 3: y is 'two'"),
            (["label,x,y,z", "", "a,1,2"], "line 3: z is None"),
            (["label,x,y,z", "a,1,2,nan"], "line 2: z is 'nan'"),
            (["label,x,y,z"], "holds no points"),
            ([""], "lacks the columns x, y"),
        ],
        ids=[
            "no y",
            "half a pair",
            "no header",
            "a word",
            "a short line",
            "NaN",
            "no lines",
            "empty",
        ],
    )
    def test_bad_tables(self, lines: list[str], what: str, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=what) as report:
            read_points(text(tmp_path / "bad.csv", *lines))
        assert "bad.csv" in str(report.value)

    def test_a_list_is_not_a_table_of_pairs(self, tmp_path: Path) -> None:
        with pytest.raises(
            InputError, match="lacks the columns fixed_x, fixed_y, moving_x, moving_y"
        ):
            read_point_pairs(text(tmp_path / "p.csv", "label,x,y,z", "a,1,2,3"))
        with pytest.raises(InputError, match="lacks the column moving_z"):
            read_point_pairs(
                text(tmp_path / "p.csv", "fixed_x,fixed_y,fixed_z,moving_x,moving_y", "1,2,3,4,5")
            )

    def test_not_text(self, tmp_path: Path) -> None:
        (tmp_path / "p.csv").write_bytes(b"\xff\xfe\x80")
        with pytest.raises(InputError, match=r"p\.csv is no readable table"):
            read_points(tmp_path / "p.csv")

    def test_files(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="not there"):
            read_points(tmp_path / "none.csv")
        with pytest.raises(InputError, match=r"expected one of \.csv, \.mrk\.json, \.fcsv"):
            read_points(tmp_path / "points.txt")
        with pytest.raises(OutputError, match="could not be written"):
            write_points(Points.from_array(RAS), tmp_path / "nowhere" / "p.csv")


class TestPairing:
    def test_by_label(self) -> None:
        fixed, moving = pair_points(
            Points.from_array(RAS, ["a", "b"]), Points.from_array(LPS, ["b", "a"], "moving.csv")
        )
        np.testing.assert_array_equal(fixed.coords.numpy(), RAS)
        np.testing.assert_array_equal(moving.coords.numpy(), LPS[::-1])
        assert (moving.labels, moving.name) == (("a", "b"), "moving.csv")

    def test_by_order_with_a_warning_where_labels_differ(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        for labels in (["M-1", "M-2"], ["a", "a"]):
            caplog.clear()
            _, moving = pair_points(
                Points.from_array(RAS, ["a", "b"]), Points.from_array(LPS, labels)
            )
            np.testing.assert_array_equal(moving.coords.numpy(), LPS)
            assert "in the order they stand" in caplog.text

    def test_unequal_numbers(self) -> None:
        with pytest.raises(InputError, match=r"fixed\.csv has 2 points and moving\.csv has 1"):
            pair_points(
                Points.from_array(RAS, name="fixed.csv"),
                Points.from_array(RAS[:1], name="moving.csv"),
            )

    def test_unequal_dimensions(self) -> None:
        with pytest.raises(FrameError, match="3-D and points in 2-D"):
            pair_points(Points.from_array(RAS), Points.from_array(RAS[:, :2]))


class TestSlicer:
    @pytest.mark.parametrize(
        ("keys", "positions"),
        [
            ({}, LPS),
            ({"coordinateSystem": "LPS"}, LPS),
            ({"coordinateSystem": "RAS"}, RAS),
            ({"coordinateSystem": 0}, RAS),
            ({"coordinateSystem": "0"}, RAS),
            ({"coordinateSystem": 1}, LPS),
        ],
        ids=str,
    )
    def test_the_frame_key_is_obeyed(
        self, keys: dict[str, object], positions: np.ndarray, tmp_path: Path
    ) -> None:
        points = read_points(markups(tmp_path / "p.mrk.json", positions, **keys))
        np.testing.assert_array_equal(points.coords.numpy(), RAS)
        assert points.labels == ("F-1", "F-2")

    def test_writing_is_lps(self, tmp_path: Path) -> None:
        points = Points.from_array(RAS, ["carina", "apex"])
        write_points(points, tmp_path / "p.mrk.json")
        (markup,) = json.loads((tmp_path / "p.mrk.json").read_text())["markups"]
        assert (markup["type"], markup["coordinateSystem"]) == ("Fiducial", "LPS")
        assert [c["label"] for c in markup["controlPoints"]] == ["carina", "apex"]
        np.testing.assert_array_equal([c["position"] for c in markup["controlPoints"]], LPS)
        back = read_points(tmp_path / "p.mrk.json")
        assert torch.equal(back.coords, points.coords)
        assert back.labels == points.labels

    @pytest.mark.parametrize("frame", ["LPS", "1", "RAS", "0"])
    def test_fcsv(self, frame: str, tmp_path: Path) -> None:
        rows = [
            f"{i},{x!r},{y!r},{z!r},0,0,0,1,1,1,0,F-{i},,"
            for i, (x, y, z) in enumerate((RAS if frame in ("RAS", "0") else LPS).tolist())
        ]
        path = text(
            tmp_path / "p.fcsv",
            "# Markups fiducial file version = 4.13",
            f"# CoordinateSystem = {frame}",
            "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID",
            *rows,
        )
        points = read_points(path)
        np.testing.assert_array_equal(points.coords.numpy(), RAS)
        assert points.labels == ("F-0", "F-1")

    def test_bad_markups(self, tmp_path: Path) -> None:
        path = tmp_path / "bad.mrk.json"
        for keys, what in (
            ({"coordinateSystem": "IJK"}, "names the frame 'IJK'"),
            ({"coordinateUnits": "um"}, "'um'"),
            ({"controlPoints": []}, "no control points"),
        ):
            with pytest.raises(InputError, match=what):
                read_points(markups(path, RAS, **keys))
        for content in (
            "{",
            "[]",
            '{"markups": []}',
            '{"markups": [{}, {}]}',
            '{"markups": [{"controlPoints": [3]}]}',
        ):
            with pytest.raises(InputError, match=r"bad\.mrk\.json is no markups file"):
                read_points(text(path, content))

    @pytest.mark.parametrize(
        "control",
        [
            {"label": "F-7"},
            {"label": "F-7", "position": [1, 2]},
            {"label": "F-7", "position": [1, 2, "x"]},
            {"label": "F-7", "position": [0, 0, 0], "positionStatus": "undefined"},
        ],
        ids=str,
    )
    def test_points_not_placed(self, control: dict[str, object], tmp_path: Path) -> None:
        with pytest.raises(InputError, match="control point F-7"):
            read_points(markups(tmp_path / "p.mrk.json", RAS, controlPoints=[control]))

    def test_bad_fcsv(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"p\.fcsv lacks the lines"):
            read_points(text(tmp_path / "p.fcsv", "# columns = id,x,y,z", "1,2,3,4"))
        with pytest.raises(InputError, match="control point 1 has the position"):
            read_points(
                text(
                    tmp_path / "p.fcsv",
                    "# CoordinateSystem = RAS",
                    "# columns = id,x,y,z,label",
                    "1,2,three,4",
                )
            )

    def test_not_written(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match=r"write \.mrk\.json"):
            write_points(Points.from_array(RAS), tmp_path / "p.fcsv")
        with pytest.raises(InputError, match="2-D"):
            write_points(Points.from_array(RAS[:, :2]), tmp_path / "p.mrk.json")
        with pytest.raises(OutputError, match="could not be written"):
            write_points(Points.from_array(RAS), tmp_path / "nowhere" / "p.mrk.json")


@pytest.mark.real
def test_real_landmarks_lie_in_their_images(data_dir: Path) -> None:
    from inrreg.core.checks import check_landmarks
    from inrreg.io import read_image

    case = data_dir / "lung_ct_longitudinal"
    for points, name in zip(
        read_point_pairs(case / "landmarks.csv"), ("fixed", "moving"), strict=True
    ):
        assert len(points) == 51
        check_landmarks(points, read_image(case / f"{name}.nii.gz").grid, points.name)
