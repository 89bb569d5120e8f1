"""Many pairs: each registered in a process of its own, on this machine or on a Dask cluster, and
one table at the end (docs/outputs.md).

Dask only hands out the pairs, here as on a cluster. A pair that runs out of memory or crashes takes
its own process with it and nothing else, holds no memory afterwards, and gives the field that
``inrreg register`` gives.
"""

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from inrreg.app.cohort_rows import NUMBERS, Row, number_at, write_table
from inrreg.app.cohort_table import Entry, read_pairs, same_inputs
from inrreg.app.config import versions
from inrreg.app.result import VERSION_KEY, check_output, is_result, load
from inrreg.core.errors import InputError, OutputError, RegistrationError
from inrreg.presets import Preset
from inrreg.transforms.description import described

if TYPE_CHECKING:
    from distributed import Client, Event

log = logging.getLogger(__name__)

LOGS = "logs"
PENDING, FAILED = "pending", "failed"
RESULT_FILES = ("displacement.nii.gz", "warped.nii.gz", "report.html")
"""What a whole result holds beside what ``load`` reads."""
CHILD = "from inrreg.app.cohort import _child; _child()"
CONNECT_S, ASK_S = 30, 1.0
"""Seconds a scheduler has to answer, and between two looks at whether to stop."""
PRIVATE = "127.0.0.1:0"
"""Any free port that this machine alone sees: Dask serves pages of its own even where nobody asks
for them.
"""


@dataclass(frozen=True, eq=False)
class Task:
    """One pair with all that it is registered by; ``folder`` takes the result, ``log`` what was
    said on the way.
    """

    entry: Entry
    folder: Path
    log: Path
    device: str
    seed: int
    threads: int


def run(
    pairs: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    preset: str | Preset = "default",
    device: str = "cpu",
    seed: int = 0,
    processes: int | None = None,
    threads: int | None = None,
    scheduler: str | None = None,
    progress: Callable[[Row], None] | None = None,
) -> list[Row]:
    """Register each pair of a CSV into ``output/NAME`` and write ``output/cohort.csv``; the rows of
    that table, in the order of the CSV.

    The columns are ``name``, ``fixed``, ``moving``, and as ``register`` takes them ``fixed_mask``,
    ``moving_mask``, ``landmarks`` (or ``fixed_landmarks`` and ``moving_landmarks``),
    ``guide_landmarks`` and ``preset``; files relative to the CSV. ``processes`` pairs run at once,
    by default as many as there are cores, each with ``threads`` threads, by default its share of
    the cores. ``scheduler`` is the address of a Dask cluster whose workers see the same files; each
    of their threads takes a pair. A pair whose whole result stands there, by the same settings and
    inputs, is not run again. What fails is a row of the table. ``progress`` is called with each row
    as it is finished. A KeyboardInterrupt stops the pairs that run; what is done stays, for the
    next call to go on from.

    Raises:
        InputError: something about the CSV or the options is wrong, or Dask is missing; nothing has
            been computed then.
        OutputError: a result cannot be written to ``output``.
    """
    folder, entries = Path(output).absolute(), read_pairs(pairs, preset)
    _check_options(device, seed, processes, threads, scheduler)
    _check_folder(folder, entries)
    count, share = _shares(len(entries), device, processes, threads, scheduler)
    tasks = [
        Task(entry, folder / entry.name, folder / LOGS / f"{entry.name}.txt", device, seed, share)
        for entry in entries
    ]
    rows = {task.entry.name: _finished(task) if _done(task) else _pending(task) for task in tasks}
    waiting = [task for task in tasks if rows[task.entry.name]["outcome"] == PENDING]
    with _client(scheduler, count) if waiting else nullcontext() as client:
        write_table(rows.values(), folder)
        with closing(_performed(waiting, client)) as performed:
            for row in performed:
                rows[row["name"]] = row
                write_table(rows.values(), folder)
                if progress is not None:
                    progress(row)
    return list(rows.values())


def _performed(tasks: Sequence[Task], client: "Client | None") -> Generator[Row, None, None]:
    """The rows of ``tasks`` as they are finished; an interrupt stops those that run, wherever they
    do.
    """
    if client is None:
        return
    from distributed import Event, as_completed, wait

    stop = Event(f"inrreg-cohort-{uuid.uuid4().hex}", client)
    futures = {
        client.submit(
            _perform, task, stop, key=f"{task.entry.name}-{uuid.uuid4().hex}", pure=False
        ): task
        for task in tasks
    }
    try:
        for future in as_completed(futures):
            task = futures[future]
            yield (
                future.result()
                if future.status == "finished"
                else _failed(
                    task,
                    "its worker could not run it"
                    f" ({future.exception() if future.status == 'error' else future.status})",
                )
            )
    finally:
        stop.set()
        wait(list(futures))


def _perform(task: Task, stop: "Event") -> Row:
    """Register a pair in a process of its own; runs on the worker."""
    import cloudpickle

    if stop.is_set():
        return _pending(task)
    threads = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(task.threads)
    )
    # Dask's workers give memory back at once, which would cost a registration half its time again
    # in system calls
    environment = {
        name: value for name, value in os.environ.items() if name != "MALLOC_TRIM_THRESHOLD_"
    }
    task.log.parent.mkdir(parents=True, exist_ok=True)
    with task.log.open("w", encoding="utf-8") as said:
        # its own session: a Ctrl-C is answered here
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=environment | threads,
            start_new_session=True,
        )
        with child:
            assert child.stdin is not None
            child.stdin.write(cloudpickle.dumps(task))
            child.stdin.flush()
            while _running(child):
                if stop.is_set():
                    child.kill()
    return (
        _finished(task)
        if child.returncode == 0
        else _failed(task, _reason(child.returncode, task.log))
    )


def _running(child: subprocess.Popen) -> bool:
    """Whether it still runs, after waiting a while for its end."""
    try:
        child.wait(ASK_S)
    except subprocess.TimeoutExpired:
        return True
    return False


def _child() -> None:
    """What runs in the process of a pair: the task comes on the standard input, which stays open
    for as long as somebody waits for the result.
    """
    from inrreg.app.register import register

    task: Task = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_when_nobody_waits, daemon=True).start()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        result = register(
            **task.entry.arguments(), device=task.device, seed=task.seed, threads=task.threads
        )
        result.save(task.folder)
    except RegistrationError as error:
        log.error("%s", " ".join(str(error).split()))
        sys.exit(1)


def _end_when_nobody_waits() -> NoReturn:
    os.read(0, 1)  # not through sys.stdin, whose lock would be held when the interpreter ends
    os._exit(1)


def _reason(code: int, said: Path) -> str:
    """Why a process ended: the signal, or the last line it said."""
    if code < 0:
        name = signal.Signals(-code).name
        return (
            "its process was ended by"
            f" {name}{', as when memory runs out' if name == 'SIGKILL' else ''}"
        )
    lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else f"its process ended with code {code} and said nothing"


def _done(task: Task) -> bool:
    """Whether the whole result of these settings and inputs stands there; an interrupted one does
    not count.
    """
    if not is_result(task.folder) or not all(
        (task.folder / name).exists() for name in RESULT_FILES
    ):
        return False
    try:
        found = load(task.folder)
    except InputError:
        return False
    settings = {
        "preset": described(task.entry.preset),
        "seed": task.seed,
        "device": task.device,
        VERSION_KEY: versions()[VERSION_KEY],
    }
    same = all(found.config.get(name) == value for name, value in settings.items()) and same_inputs(
        task.entry, found.config["inputs"]
    )
    if not same:
        log.warning(
            "%s: the result in %s was made of other inputs or by other settings; it is made again",
            task.entry.name,
            task.folder,
        )
    return same and found.outcome.name != "INTERRUPTED"


def _pending(task: Task) -> Row:
    return {
        "name": task.entry.name,
        "preset": task.entry.preset.name,
        "outcome": PENDING,
        "message": "",
        **dict.fromkeys(NUMBERS),
    }


def _failed(task: Task, reason: str) -> Row:
    return {**_pending(task), "outcome": FAILED, "message": reason}


def _finished(task: Task) -> Row:
    """The row of a pair whose result stands in its folder."""
    metrics = load(task.folder).metrics.to_json()
    return {
        **_pending(task),
        "outcome": metrics["outcome"]["name"],
        "message": metrics["outcome"]["message"],
        **{name: number_at(metrics, keys) for name, keys in NUMBERS.items()},
    }


def _check_options(
    device: str, seed: int, processes: int | None, threads: int | None, scheduler: str | None
) -> None:
    """Each option, as ``register`` checks it; the device only where the pairs will meet it."""
    import torch

    from inrreg.app.register import prepare
    from inrreg.core.grid import Grid
    from inrreg.core.image import Image

    if processes is not None and scheduler is not None:
        raise InputError(
            "the workers of a cluster say how many pairs run at once; give either processes or a"
            " scheduler"
        )
    if processes is not None and processes < 1:
        raise InputError(f"processes must be 1 or more, got {processes}")
    ramp = Image(torch.arange(16.0).reshape(1, 4, 4), Grid.from_spacing((4, 4), 1.0), "ramp")
    prepare(ramp, ramp, device=device if scheduler is None else "cpu", seed=seed, threads=threads)


def _check_folder(folder: Path, entries: Sequence[Entry]) -> None:
    """Whether every result can be written."""
    if is_result(folder):
        raise OutputError(f"{folder} is the result of one pair; give another folder for the cohort")
    for entry in entries:
        check_output(folder / entry.name)


def _shares(
    pairs: int, device: str, processes: int | None, threads: int | None, scheduler: str | None
) -> tuple[int, int]:
    """How many pairs run at once, and the threads of each: all cores are busy, and one pair at a
    time has a GPU.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    count = processes or (
        1 if device.startswith("cuda") else max(1, min(pairs, cores // (threads or 1)))
    )
    return count, threads or (1 if scheduler else max(1, cores // count))


@contextmanager
def _client(scheduler: str | None, processes: int) -> Iterator["Client"]:
    """A client of the scheduler at that address, or of one in this process with ``processes``
    threads, each of which waits for the process of a pair.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InputError(
            f"pairs are handed out by Dask, which is not installed ({error}); install it with pip"
            " install 'inrreg[cluster]'"
        ) from error
    # it tells of every connection otherwise
    logging.getLogger("distributed").setLevel(logging.ERROR)
    if scheduler is None:
        with (
            LocalCluster(
                n_workers=1,
                threads_per_worker=processes,
                processes=False,
                memory_limit=None,
                dashboard_address=PRIVATE,
                worker_dashboard_address=PRIVATE,
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        connected = Client(scheduler, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no Dask scheduler answers at {scheduler} ({error}); give the address that `dask"
            " scheduler` says, such as tcp://host:8786"
        ) from error
    with connected as client:
        if not client.scheduler_info()["workers"]:
            log.warning("the scheduler at %s has no workers yet; the pairs wait for one", scheduler)
        yield client
