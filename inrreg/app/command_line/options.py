"""Options and output that several verbs share."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from inrreg.app.console import out, show_metrics
from inrreg.app.exit_codes import EXIT

if TYPE_CHECKING:
    from inrreg.app.result import Result

log = logging.getLogger(__name__)

ImageFile = Annotated[Path, Positional, arg(metavar="IMAGE")]
Folder = Annotated[Path, Positional, arg(metavar="RESULT")]
Output = Annotated[Path, arg(aliases=["-o"], metavar="FOLDER")]
OutputFile = Annotated[Path, arg(aliases=["-o"], metavar="FILE")]
OptionalFile = Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="(optional)")]
Threads = Annotated[
    int | None, arg(metavar="N", help_behavior_hint="(default: as many as torch chooses)")
]
Device = Annotated[str, arg(metavar="DEVICE")]
Seed = Annotated[int, arg(metavar="N")]
Quiet = Annotated[bool, arg(aliases=["-q"], help_behavior_hint="")]
Verbose = Annotated[bool, arg(aliases=["-v"], help_behavior_hint="")]


def load_result(folder: Path) -> "Result":
    """The result in a folder."""
    from inrreg.app.result import load

    return load(folder)


def finish(result: "Result", folder: Path, title: str, quiet: bool) -> int:
    """Show the numbers and the path of the report; return the exit code of the outcome."""
    if not quiet:
        show_metrics(result.metrics.to_json(), title)
        out.print(
            f"report: {folder / 'report.html'}", soft_wrap=True, markup=False, highlight=False
        )
    if not result.outcome.usable:
        log.error("%s: %s", result.outcome.label, result.outcome.value)
    return EXIT[result.outcome.name]
