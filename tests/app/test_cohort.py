"""Many pairs: what is refused before any work, what each pair leaves, what a failing one does to
the others, and where a stopped cohort goes on.
"""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from roof_cases import TINY, landmarks_of, pair_2d, saved

import inrreg
from inrreg.app import cohort, cohort_table, command_line
from inrreg.app.cohort_table import read_pairs
from inrreg.core.errors import InputError, OutputError
from inrreg.io import write_point_pairs, write_points

HEADER = "name,fixed,moving,fixed_mask,landmarks,fixed_landmarks,moving_landmarks"
LINES = (
    "one,fixed.nii.gz,moving.nii.gz,fixed_mask.nii.gz,landmarks.csv,,",
    "two,fixed.nii.gz,moving.nii.gz,,,fixed.csv,moving.csv",
    "broken,damaged.nii.gz,moving.nii.gz,,,,",
)
UNDRAWN = (
    "import inrreg.report\ninrreg.report.registration_report = lambda path, content:"
    " path.write_text('drawn elsewhere')\n"
)
"""Drawing takes longer than the rest."""
Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pair in 2-D, its landmarks in one table and in two, and an image that is none."""
    folder = saved(pair_2d(), tmp_path_factory.mktemp("files"))
    fixed, moving = landmarks_of(pair_2d())
    write_point_pairs(fixed, moving, folder / "landmarks.csv")
    write_points(fixed, folder / "fixed.csv")
    write_points(moving, folder / "moving.csv")
    (folder / "damaged.nii.gz").write_bytes(b"no image")
    return folder


def table(folder: Path, *lines: str, header: str = HEADER, name: str = "pairs.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    pytest.importorskip("distributed", reason="the extra [cluster] is not installed")
    monkeypatch.setattr(cohort, "CHILD", UNDRAWN + cohort.CHILD)
    monkeypatch.setattr(cohort, "ASK_S", 0.05)
    return lambda *arguments, **options: cohort.run(
        *arguments, **{"preset": TINY, "processes": 1, "threads": 1, **options}
    )


@pytest.fixture(scope="module")
def done(
    files: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[dict[str, Any]], Path]]:
    """The rows and the folder of a cohort of three, one of which fails, two at once."""
    pytest.importorskip("distributed", reason="the extra [cluster] is not installed")
    output = tmp_path_factory.mktemp("cohort") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cohort, "CHILD", UNDRAWN + cohort.CHILD)
        yield cohort.run(table(files, *LINES), output, preset=TINY, processes=2, threads=1), output


class TestTable:
    def test_lines_are_what_register_takes(self, files: Path) -> None:
        one, two = read_pairs(table(files, *LINES[:2]), TINY)
        assert (one.name, one.fixed, one.moving, one.fixed_mask, one.moving_mask) == (
            "one",
            files / "fixed.nii.gz",
            files / "moving.nii.gz",
            files / "fixed_mask.nii.gz",
            None,
        )
        assert (one.landmarks, two.landmarks) == (
            files / "landmarks.csv",
            (files / "fixed.csv", files / "moving.csv"),
        )
        assert one.preset is TINY
        assert set(one.arguments()) == {
            "fixed",
            "moving",
            "preset",
            "fixed_mask",
            "moving_mask",
            "landmarks",
            "guide_landmarks",
        }

    def test_a_line_may_name_its_preset(self, files: Path) -> None:
        header, lines = (
            "Name, fixed, moving, preset",
            (
                "a, fixed.nii.gz, moving.nii.gz, lung",
                "b, fixed.nii.gz, moving.nii.gz,",
            ),
        )
        path = files / "spaced.csv"
        # as spreadsheets write it
        path.write_text("\ufeff" + "\r\n".join([header, *lines]), encoding="utf-8")
        assert [entry.preset.name for entry in read_pairs(path, "brain")] == ["lung", "brain"]

    @pytest.mark.parametrize(
        ("header", "lines", "message"),
        [
            (
                "name,fixed",
                ["a,fixed.nii.gz"],
                r"pairs.csv lacks the column moving \(its first line is 'name,fixed'\)",
            ),
            (
                "name,fixed,moving,fixed_maks",
                ["a,b,c,d"],
                "has the column 'fixed_maks', which is unknown or there twice",
            ),
            (
                "name,fixed,moving,moving",
                ["a,b,c,d"],
                "has the column 'moving', which is unknown or there twice",
            ),
            ("name,fixed,moving", [], "holds no pairs, only a header"),
            ("name,fixed,moving", ["a,fixed.nii.gz"], "line 2 has not as many cells as the header"),
            (
                "name,fixed,moving",
                ["a,fixed.nii.gz,moving.nii.gz,"],
                "line 2 has not as many cells as the header",
            ),
            (
                "name,fixed,moving",
                ["a,fixed.nii.gz,gone.nii.gz"],
                "line 2: moving gone.nii.gz is no file",
            ),
            ("name,fixed,moving", ["a,,moving.nii.gz"], "line 2: fixed is missing"),
            (
                "name,fixed,moving",
                ["../a,fixed.nii.gz,moving.nii.gz"],
                r"line 2: the name '../a' cannot be that of a folder",
            ),
            (
                "name,fixed,moving",
                ["logs,fixed.nii.gz,moving.nii.gz"],
                "line 2: the name 'logs' cannot be",
            ),
            ("name,fixed,moving", [",fixed.nii.gz,moving.nii.gz"], "line 2: the name '' cannot be"),
            (
                "name,fixed,moving",
                ["a,fixed.nii.gz,moving.nii.gz", "A,fixed.nii.gz,moving.nii.gz"],
                "line 3: the name 'A' is that of line 2 too",
            ),
            (
                "name,fixed,moving,preset",
                ["a,fixed.nii.gz,moving.nii.gz,knee"],
                "line 2: no preset is called 'knee'",
            ),
            (
                "name,fixed,moving,fixed_landmarks",
                ["a,fixed.nii.gz,moving.nii.gz,fixed.csv"],
                "line 2: give either landmarks, or both",
            ),
            (
                HEADER,
                ["a,fixed.nii.gz,moving.nii.gz,,landmarks.csv,fixed.csv,moving.csv"],
                "line 2: give either landmarks, or both",
            ),
            (
                "name,fixed,moving",
                [f"{name},x,y" for name in "abc"],
                (
                    "line 2: fixed x is no file; line 2: moving y is no file; line 3: fixed x is no"
                    " file; and 3 more; correct the table"
                ),
            ),
        ],
    )
    def test_faults_are_told_before_any_work(
        self, header: str, lines: list[str], message: str, files: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match=message):
            cohort.run(table(files, *lines, header=header), tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_file_that_is_no_table(self, files: Path) -> None:
        for path in (files / "gone.csv", files / "fixed.nii.gz"):
            with pytest.raises(InputError, match="is no readable table"):
                read_pairs(path, TINY)


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"processes": 0}, "processes must be 1 or more, got 0"),
            ({"threads": 0}, "threads must be 1 or more, got 0"),
            ({"device": "tpu"}, "no device is called 'tpu'"),
            ({"preset": "knee"}, "no preset is called 'knee'"),
            (
                {"processes": 1, "scheduler": "tcp://localhost:1"},
                "give either processes or a scheduler",
            ),
        ],
    )
    def test_are_checked_before_any_work(
        self, options: dict[str, Any], message: str, files: Path, tmp_path: Path
    ) -> None:
        with pytest.raises(InputError, match=message):
            cohort.run(table(files, *LINES), tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("pairs", "device", "processes", "threads", "scheduler", "expected"),
        [
            (100, "cpu", None, None, None, (8, 1)),
            (3, "cpu", None, None, None, (3, 2)),
            (100, "cpu", None, 4, None, (2, 4)),
            (100, "cpu", 2, None, None, (2, 4)),
            (100, "cpu", 16, None, None, (16, 1)),
            (100, "cuda:0", None, None, None, (1, 8)),
            (100, "cpu", None, None, "tcp://host:8786", (8, 1)),
        ],
    )
    def test_cores_are_shared_out(
        self,
        pairs: int,
        device: str,
        processes: int | None,
        threads: int | None,
        scheduler: str | None,
        expected: tuple[int, int],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(cohort.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
        assert cohort._shares(pairs, device, processes, threads, scheduler) == expected

    def test_what_is_not_ours_is_left_alone(self, files: Path, tmp_path: Path) -> None:
        (tmp_path / "two").mkdir()
        (tmp_path / "two" / "thesis.txt").write_text("unique")
        with pytest.raises(OutputError, match="two exists and is not a result of inrreg"):
            cohort.run(table(files, *LINES), tmp_path, preset=TINY)
        assert [path.name for path in tmp_path.iterdir()] == ["two"]

    def test_the_result_of_one_pair_is_no_place_for_a_cohort(
        self, done: tuple[list[dict[str, Any]], Path], files: Path
    ) -> None:
        with pytest.raises(OutputError, match="one is the result of one pair; give another folder"):
            cohort.run(table(files, *LINES), done[1] / "one", preset=TINY)

    def test_each_process_has_its_threads_and_nothing_of_dask(
        self, run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            cohort,
            "CHILD",
            "import os, sys; sys.exit(' '.join(os.environ.get(n, 'unset') for n in"
            " ('OMP_NUM_THREADS', 'OPENBLAS_NUM_THREADS', 'MALLOC_TRIM_THRESHOLD_')))",
        )
        monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
        (row,) = run(table(files, LINES[0]), tmp_path / "out", threads=3)
        assert row["message"] == "3 3 unset"

    def test_without_dask(
        self, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "distributed", None)
        with pytest.raises(
            InputError, match=r"Dask, which is not installed .* pip install 'inrreg\[cluster\]'"
        ):
            cohort.run(table(files, *LINES), tmp_path / "out", preset=TINY)
        assert not (tmp_path / "out").exists()

    def test_without_a_scheduler_at_the_address(
        self, run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cohort, "CONNECT_S", 0.5)
        with pytest.raises(InputError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
            run(
                table(files, *LINES),
                tmp_path / "out",
                processes=None,
                scheduler="tcp://127.0.0.1:9",
            )
        assert not (tmp_path / "out").exists()


class TestRun:
    def test_ends_in_one_table_in_the_order_of_the_csv(
        self, done: tuple[list[dict[str, Any]], Path]
    ) -> None:
        rows, output = done
        with (output / "cohort.csv").open(newline="") as stream:
            written = list(csv.DictReader(stream))
        assert written == [
            {name: "" if value is None else str(value) for name, value in row.items()}
            for row in rows
        ]
        assert [row["name"] for row in rows] == ["one", "two", "broken"]
        for row in rows[:2]:
            metrics = inrreg.load(output / row["name"]).metrics.to_json()
            assert (row["outcome"], row["preset"]) == (metrics["outcome"]["name"], "tiny")
            assert (row["lncc_before"], row["lncc_after"]) == tuple(
                metrics["similarity"][when]["lncc"] for when in ("before", "after")
            )
            assert (row["total_s"], row["folded_percent"], row["det_min"]) == (
                metrics["time_s"]["total"],
                metrics["jacobian"]["folded_percent"],
                metrics["jacobian"]["min"],
            )
            assert row["landmarks_initial_mean_mm"] == pytest.approx(6.0)
            assert row["landmarks_mean_mm"] == metrics["landmarks"]["all"]["mean_mm"] < 4
        assert {path.name for path in output.iterdir()} == {"one", "two", "logs", "cohort.csv"}

    def test_a_pair_that_fails_is_a_row(self, done: tuple[list[dict[str, Any]], Path]) -> None:
        rows, output = done
        assert rows[2]["outcome"] == "failed"
        assert "damaged.nii.gz" in rows[2]["message"]
        assert rows[2]["total_s"] is None
        assert rows[2]["message"] in (output / "logs" / "broken.txt").read_text()

    def test_gives_the_field_of_register(
        self,
        done: tuple[list[dict[str, Any]], Path],
        files: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(
            "inrreg.report.registration_report",
            lambda path, content: path.write_text("drawn elsewhere"),
        )
        inrreg.register(
            files / "fixed.nii.gz",
            files / "moving.nii.gz",
            fixed_mask=files / "fixed_mask.nii.gz",
            preset=TINY,
            threads=1,
        ).save(tmp_path / "alone")
        for name in ("displacement.nii.gz", "warped.nii.gz", "transform/weights.safetensors"):
            assert (tmp_path / "alone" / name).read_bytes() == (
                done[1] / "one" / name
            ).read_bytes(), name

    def test_a_crash_takes_nobody_along(
        self, run: Run, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(
            cohort,
            "CHILD",
            "import os, sys\nsys.exit(3) if b'moving.csv' in sys.stdin.buffer.read1() else"
            " os.kill(os.getpid(), 9)",
        )
        rows = run(table(files, *LINES[:2]), tmp_path / "out")
        assert [row["message"] for row in rows] == [
            "its process was ended by SIGKILL, as when memory runs out",
            "its process ended with code 3 and said nothing",
        ]

    def test_through_a_scheduler_elsewhere(self, run: Run, files: Path, tmp_path: Path) -> None:
        from distributed import LocalCluster

        private = {"dashboard_address": cohort.PRIVATE, "worker_dashboard_address": cohort.PRIVATE}
        with LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            processes=False,
            protocol="tcp",
            host="127.0.0.1",
            **private,
        ) as cluster:
            (row,) = run(
                table(files, LINES[0]),
                tmp_path / "out",
                processes=None,
                threads=None,
                scheduler=cluster.scheduler_address,
            )
        assert row["landmarks_mean_mm"] < 4
        assert inrreg.load(tmp_path / "out" / "one").config["threads"] == 1


class TestResume:
    @pytest.fixture
    def rerun(
        self,
        run: Run,
        done: tuple[list[dict[str, Any]], Path],
        files: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Callable[..., list[str]]:
        """The names of the pairs that run again, by a process that does nothing, with the CSV and
        options given.
        """
        shutil.copytree(done[1], tmp_path / "out")
        monkeypatch.setattr(cohort, "CHILD", "import sys; sys.exit('enough')")

        def call(*lines: str, **options: Any) -> list[str]:
            ran: list[str] = []
            run(
                table(files, *lines, name="again.csv"),
                tmp_path / "out",
                progress=lambda row: ran.append(row["name"]),
                **options,
            )
            return ran

        return call

    def test_nothing_runs_again_but_what_failed(self, rerun: Callable[..., list[str]]) -> None:
        assert rerun(*LINES, threads=2) == ["broken"]  # threads change the last bits at most

    def test_nothing_at_all_needs_no_dask(
        self, rerun: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "distributed", None)
        assert rerun(*LINES[:2]) == []

    @pytest.mark.parametrize(
        ("changed", "options"),
        [
            (LINES[0], {"preset": replace(TINY, folding_limit_percent=1.0)}),
            (LINES[0], {"seed": 1}),
            (LINES[0].replace("fixed_mask.nii.gz", ""), {}),
            (LINES[0].replace("fixed_mask.nii.gz", "moving_mask.nii.gz"), {}),
            (LINES[0].replace("landmarks.csv", ""), {}),
            (LINES[0].replace("one,fixed", "one,moving"), {}),
        ],
    )
    def test_other_settings_or_inputs_run_again(
        self,
        changed: str,
        options: dict[str, Any],
        rerun: Callable[..., list[str]],
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        assert rerun(changed, **options) == ["one"]
        assert "was made of other inputs or by other settings; it is made again" in caplog.text

    @pytest.mark.parametrize(
        "lost",
        ["metrics.json", "config.json", "displacement.nii.gz", "transform/weights.safetensors"],
    )
    def test_a_result_that_is_not_whole_runs_again(
        self, lost: str, rerun: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        (tmp_path / "out" / "two" / lost).unlink()
        if lost == "config.json":  # nor is it known to be ours any more
            with pytest.raises(OutputError, match="two exists and is not a result of inrreg"):
                rerun(*LINES[:2])
        else:
            assert rerun(*LINES[:2]) == ["two"]

    def test_an_interrupted_result_runs_again(
        self, rerun: Callable[..., list[str]], tmp_path: Path
    ) -> None:
        path = tmp_path / "out" / "one" / "metrics.json"
        metrics = json.loads(path.read_text())
        path.write_text(
            json.dumps(metrics | {"outcome": {"name": "interrupted", "message": "stopped"}})
        )
        assert rerun(*LINES[:2]) == ["one"]

    def test_an_interrupt_stops_what_runs_and_the_next_call_goes_on(
        self,
        rerun: Callable[..., list[str]],
        run: Run,
        files: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        shutil.rmtree(tmp_path / "out" / "two")
        endless = (
            "import sys, time\ntime.sleep(600 if b'moving.csv' in sys.stdin.buffer.read1() else"
            " 0)\nsys.exit('enough')"
        )

        def interrupt(row: dict[str, Any]) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(cohort, "CHILD", endless)
            with pytest.raises(KeyboardInterrupt):
                run(table(files, *LINES), tmp_path / "out", processes=2, progress=interrupt)
        with (tmp_path / "out" / "cohort.csv").open(newline="") as stream:
            assert [(row["name"], row["outcome"]) for row in csv.DictReader(stream)] == [
                ("one", "iteration_limit"),
                ("two", "pending"),
                ("broken", "failed"),
            ]
        assert sorted(rerun(*LINES)) == ["broken", "two"]


def test_a_process_ends_when_nobody_waits_for_it() -> None:
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            (
                "import inrreg.app.cohort; print('ready', flush=True);"
                " inrreg.app.cohort._end_when_nobody_waits()"
            ),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"ready\n"
        assert child.poll() is None
        child.stdin.close()
        assert child.wait(20) == 1


class TestCommandLine:
    @pytest.fixture
    def call(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> Callable[..., tuple[int, str, str]]:
        def call(*arguments: object) -> tuple[int, str, str]:
            with pytest.raises(SystemExit) as ending:
                command_line.main(["cohort", *map(str, arguments)])
            printed = capsys.readouterr()
            return int(ending.value.code or 0), printed.out, printed.err

        return call

    def test_passes_every_option_on_and_shows_the_table(
        self,
        call: Callable[..., tuple[int, str, str]],
        done: tuple[list[dict[str, Any]], Path],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        given: dict[str, Any] = {}
        rows = done[0]

        def run(
            *arguments: Path, progress: Callable[[dict[str, Any]], None], **options: Any
        ) -> list[dict[str, Any]]:
            given.update(options, arguments=arguments)
            for row in rows[:0:-1]:
                progress(row)
            return rows

        monkeypatch.setattr(cohort, "run", run)
        code, out, err = call(
            "p.csv",
            "-o",
            "out",
            "--preset",
            "p",
            "--device",
            "d",
            "--seed",
            5,
            "--threads",
            2,
            "--processes",
            3,
            "--scheduler",
            "s",
        )
        assert given == {
            "arguments": (Path("p.csv"), Path("out")),
            "preset": "p",
            "device": "d",
            "seed": 5,
            "threads": 2,
            "processes": 3,
            "scheduler": "s",
        }
        assert code == 3  # one failed
        assert [line.split()[:2] for line in out.splitlines()[1:4]] == [
            ["one", "iteration"],
            ["two", "iteration"],
            ["broken", "failed"],
        ]
        assert f" {rows[0]['landmarks_mean_mm']:.3g} " in out
        assert out.splitlines()[-1] == f"table: {Path('out') / 'cohort.csv'}"
        assert err.splitlines()[0] == f"broken: failed, {rows[2]['message']}"
        assert err.splitlines()[1].startswith("two: iteration limit, ")

    @pytest.mark.parametrize(
        ("outcomes", "code"),
        [
            (["converged", "iteration_limit"], 0),
            (["converged", "folded"], 5),
            (["folded", "diverged", "failed"], 5),
            (["failed", "converged"], 3),
        ],
    )
    def test_exit_code(
        self,
        outcomes: list[str],
        code: int,
        call: Callable[..., tuple[int, str, str]],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        blank = dict.fromkeys(cohort.NUMBERS)
        monkeypatch.setattr(
            cohort,
            "run",
            lambda *arguments, **options: [
                {"name": "x", "outcome": outcome, "message": "", **blank} for outcome in outcomes
            ],
        )
        assert call("p.csv", "-o", "out", "-q") == (code, "", "")

    def test_bad_input_is_one_line(
        self, call: Callable[..., tuple[int, str, str]], files: Path, tmp_path: Path
    ) -> None:
        code, out, err = call(
            table(files, "a,gone.nii.gz,moving.nii.gz", header="name,fixed,moving", name="bad.csv"),
            "-o",
            tmp_path / "out",
        )
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "line 2: fixed gone.nii.gz is no file" in err

    def test_an_interrupt(
        self, call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stop(*arguments: Path, **options: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(cohort, "run", stop)
        code, out, err = call("p.csv", "-o", "out")
        assert (code, out) == (130, "")
        assert "the same command goes on from there" in err


def test_the_columns_are_those_of_the_help() -> None:
    assert command_line.cohort.__doc__ is not None
    assert [name for name in cohort_table.COLUMNS if name not in command_line.cohort.__doc__] == []
