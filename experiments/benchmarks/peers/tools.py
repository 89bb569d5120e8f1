"""The tools: each is a command in a process of its own that leaves ``displacement.nii.gz`` on the
fixed grid, and is measured from outside.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from experiments.benchmarks.peers.cases import ISOTROPIC_MM, Benchmark
from inrreg.core.errors import InputError, RegistrationError

ROOT = Path(__file__).parents[3]
LAUNCH = Path(__file__).with_name("launch.py")
OURS = "inrreg"


class Tool(Protocol):
    """A name for the table, and how it is called."""

    @property
    def name(self) -> str: ...

    def refusal(self) -> str:
        """Why it cannot be run; empty if it can."""
        ...

    def command(self, benchmark: Benchmark, folder: Path, threads: int) -> list[str]:
        """What to run so that ``folder`` holds the field."""
        ...

    def told(self, folder: Path) -> dict[str, Any]:
        """Version, and seconds of the registration alone, without reading and writing."""
        ...


@dataclass(frozen=True)
class Ours:
    """``inrreg register`` with a preset, by default that of the anatomy."""

    name: str
    preset: str | None = None

    def refusal(self) -> str:
        return ""

    def command(self, benchmark: Benchmark, folder: Path, threads: int) -> list[str]:
        files = benchmark.files()
        masks = [
            part
            for name in ("fixed_mask", "moving_mask")
            if name in files
            for part in (f"--{name.replace('_', '-')}", str(files[name]))
        ]
        options = [
            "--preset",
            self.preset or benchmark.anatomy,
            "--threads",
            str(threads),
            "--quiet",
        ]
        return [
            sys.executable,
            "-m",
            "inrreg.app.command_line",
            "register",
            str(files["fixed"]),
            str(files["moving"]),
            "-o",
            str(folder / "result"),
            *masks,
            *options,
        ]

    def told(self, folder: Path) -> dict[str, Any]:
        metrics, config = (
            json.loads((folder / "result" / f"{name}.json").read_text(encoding="utf-8"))
            for name in ("metrics", "config")
        )
        (folder / "result" / "displacement.nii.gz").replace(folder / "displacement.nii.gz")
        loop = max(stage["seconds"] for stage in metrics["stages"])
        return {
            "version": config["inrreg"],
            "register_s": metrics["time_s"]["stages"],
            "main_loop_s": loop,
            "outcome": metrics["outcome"]["name"],
        }


@dataclass(frozen=True)
class Peer:
    """An adapter of that name, run by the ``python`` in which its ``package`` is; ``module`` is
    what the package is imported as.
    """

    name: str
    package: str
    module: str
    python: str

    def refusal(self) -> str:
        probe = (
            "import importlib.util as u, sys; sys.exit(' and '.join(n for n in ('SimpleITK',"
            f" {self.module!r}) if u.find_spec(n) is None) or 0)"
        )
        try:
            answer = subprocess.run(
                [self.python, "-c", probe], capture_output=True, text=True, check=False
            )
        except OSError as error:
            return f"{self.python} cannot be run ({error.strerror})"
        return (
            f"{answer.stderr.strip()} not installed for {Path(self.python).name}: pip install"
            f" SimpleITK {self.package}"
            if answer.returncode
            else ""
        )

    def command(self, benchmark: Benchmark, folder: Path, threads: int) -> list[str]:
        files, spacing = benchmark.files(), ISOTROPIC_MM[benchmark.anatomy]
        job = {
            "fixed": str(files["fixed"]),
            "moving": str(files["moving"]),
            "output": str(folder),
            "threads": threads,
        }
        job |= {
            "isotropic_mm": spacing,
            "aligned": benchmark.aligned,
            "start_mm": benchmark.start_mm(),
        }
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        return [
            self.python,
            "-m",
            f"experiments.benchmarks.peers.adapters.{self.name}",
            str(folder / "job.json"),
        ]

    def told(self, folder: Path) -> dict[str, Any]:
        return dict(json.loads((folder / "run.json").read_text(encoding="utf-8")))


PEERS = {
    "convexadam": ("convexAdam", "convexAdam"),
    "elastix": ("itk-elastix", "itk"),
    "greedy": ("picsl-greedy", "picsl_greedy"),
    "ants": ("antspyx", "ants"),
}


def chosen(names: list[str], peers_python: str) -> list[Tool]:
    """The tools of these names; ``inrreg:PRESET`` is ours with that preset on every case.

    Raises:
        InputError: a name that is none.
    """
    tools: list[Tool] = []
    for name in dict.fromkeys(names):
        kind, _, preset = name.partition(":")
        if name in PEERS:
            tools.append(Peer(name, *PEERS[name], peers_python))
        elif kind == OURS:
            tools.append(Ours(name, preset or None))
        else:
            raise InputError(
                f"no tool is called {name!r}; choose of {OURS}, {OURS}:PRESET, {', '.join(PEERS)}"
            )
    return tools


@dataclass(frozen=True)
class Usage:
    """What a process used: wall and CPU time with that of the processes it waited for, and its
    greatest resident memory.
    """

    seconds: float
    cpu_s: float
    memory_mb: float


def run(tool: Tool, benchmark: Benchmark, folder: Path, threads: int) -> dict[str, Any]:
    """Run a tool into ``folder`` and say what it used and told; output goes to ``said.txt`` there.

    Raises:
        RegistrationError: it failed; the message is the last line it said.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = tool.command(benchmark, folder, threads)
    with (folder / "said.txt").open("w", encoding="utf-8") as said:
        launch = [sys.executable, "-I", "-S", str(LAUNCH), str(folder / "usage.json"), *command]
        # some tools write where they stand
        subprocess.run(
            launch,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=_environment(threads),
            cwd=folder,
            check=True,
        )
    used: Mapping[str, Any] = json.loads((folder / "usage.json").read_text(encoding="utf-8"))
    # ours writes a folded result too, and says so by its exit code
    if used["code"] != 0 and not (folder / "result").exists():
        lines = (
            (folder / "said.txt").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        )
        raise RegistrationError(
            f"ended with code {used['code']}: {lines[-1] if lines else 'said nothing'}"
        )
    return {**asdict(Usage(used["seconds"], used["cpu_s"], used["memory_mb"])), **tool.told(folder)}


def _environment(threads: int) -> dict[str, str]:
    """Every library that listens is told the number of threads."""
    names = (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
    )
    return {**os.environ, **dict.fromkeys(names, str(threads)), "PYTHONPATH": str(ROOT)}
