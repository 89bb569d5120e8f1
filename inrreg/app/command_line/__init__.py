"""The command line: verbs over the Python API; the same request gives the same field from Python.

A verb imports what it needs when it runs, so that help comes at once. The exit codes are in
``inrreg.app.exit_codes``.
"""

import logging
import os
import sys
from collections.abc import Callable

import tyro
from tyro.conf import DisallowNone, FlagCreatePairsOff

import inrreg
from inrreg.app.command_line.cohort_verb import cohort
from inrreg.app.command_line.demo_verb import demo, doctor
from inrreg.app.command_line.register_verb import register
from inrreg.app.command_line.use_result import evaluate, jacobian, points, warp
from inrreg.app.console import err, out, set_up_logging
from inrreg.app.exit_codes import BAD_INPUT, FAILED, STOPPED, SUMMARY
from inrreg.core.errors import InputError, OutputError, RegistrationError

log = logging.getLogger(__name__)

DESCRIPTION = f"""inrreg {inrreg.__version__}: find the map from one image to
another, for the pair at hand.

{SUMMARY}
"""

VERBS: dict[str, Callable[..., int]] = {
    "register": register,
    "warp": warp,
    "points": points,
    "jacobian": jacobian,
    "evaluate": evaluate,
    "cohort": cohort,
    "demo": demo,
    "doctor": doctor,
}


def main(arguments: list[str] | None = None) -> None:
    """Run one verb and exit with its code."""
    given = sys.argv[1:] if arguments is None else arguments
    if given == ["--version"]:
        out.print(f"inrreg {inrreg.__version__}", highlight=False)
        sys.exit(0)
    set_up_logging()
    try:
        sys.exit(
            tyro.extras.subcommand_cli_from_dict(
                VERBS,
                prog="inrreg",
                description=DESCRIPTION,
                args=given,
                config=(DisallowNone, FlagCreatePairsOff),
            )
        )
    except InputError as error:
        _fail(str(error), BAD_INPUT)
    except (OutputError, RegistrationError) as error:
        _fail(str(error), FAILED)
    except KeyboardInterrupt:
        _fail("stopped; nothing was written", STOPPED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)
    except Exception as error:  # the last resort: a defect of inrreg, reported in one line
        log.debug("", exc_info=True)
        _fail(
            f"unexpected {type(error).__name__} ({error}), which is a defect of inrreg; please"
            " report it with the traceback that --verbose shows",
            FAILED,
        )


def _fail(reason: str, code: int) -> None:
    err.print(f"inrreg: {' '.join(reason.split())}", highlight=False, soft_wrap=True, markup=False)
    sys.exit(code)
