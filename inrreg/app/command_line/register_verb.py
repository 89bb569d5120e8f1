"""The verb register; its options are made from the fields of ``Request``."""

from contextlib import nullcontext
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg

from inrreg.app.command_line.options import OptionalFile, Output, Quiet, Verbose, finish
from inrreg.app.console import out, progress_shown, set_up_logging
from inrreg.app.request import Request
from inrreg.core.errors import InputError

if TYPE_CHECKING:
    from inrreg.app.load import Job

POSITIONAL = ("fixed", "moving")
OPTIONS = tuple(each for each in fields(Request) if "kind" in each.metadata)
"""Fields of ``Request`` that are options of the command line."""


def _option(metadata: Any, positional: bool) -> Any:
    """The type of an option with its help; an option that is not given is None or empty."""
    shown = arg(
        name=metadata.get("flag"),
        metavar=metadata["metavar"],
        help=metadata["help"],
        help_behavior_hint=metadata["hint"],
    )
    if metadata["hint"] == "(repeatable)":
        repeated: Any = UseAppendAction
        return repeated[Annotated[metadata["kind"], shown]]
    kind = Annotated[metadata["kind"] | None, shown]
    return Annotated[kind, Positional] if positional else kind


Given: Any = make_dataclass(
    "Given",
    [
        (
            each.name,
            _option(each.metadata, each.name in POSITIONAL),
            field(default=() if each.metadata["hint"] == "(repeatable)" else None),
        )
        for each in OPTIONS
    ],
    frozen=True,
)
"""The options of a request as they are given on the command line."""


def register(
    given: OmitArgPrefixes[Given],
    output: Output,
    config: OptionalFile = None,
    dry_run: Annotated[bool, arg(help_behavior_hint="")] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> int:
    """Find the map from the fixed to the moving image; write it, the warped image, metrics and a
    report.

    Args:
        given: The options of the request.
        output: Result folder; an older result there is replaced, any other folder is refused.
        config: The config.json of a result, to run the same again; other options replace its
            values.
        dry_run: Check everything, show what would be done, and stop without writing.
        quiet: Show nothing but errors.
        verbose: Show the messages of each stage, and the traceback of an unexpected error.
    """
    from inrreg.app.load import load
    from inrreg.app.register import run
    from inrreg.app.result import check_output

    set_up_logging(quiet, verbose)
    check_output(output)
    request = request_of(given, config)
    job = load(request)
    check_output(output, job.pair.fixed.grid)
    if dry_run:
        return _show_plan(job)
    with nullcontext() if quiet else progress_shown() as progress:
        result = run(job, progress)
    result.save(output)
    title = f"{Path(str(request.fixed)).name} <- {Path(str(request.moving)).name}"
    return finish(result, output, title, quiet)


def request_of(given: Any, config: Path | None) -> Request:
    """The request of the given options, and of a config.json for the options that are not given.

    Raises:
        InputError: an image is missing, or what ``Request`` refuses.
    """
    values = {each.name: getattr(given, each.name) for each in OPTIONS}
    values = {name: value for name, value in values.items() if value not in (None, ())}
    if "settings" in values:
        values["settings"] = parsed_settings(values["settings"])
    if config is not None:
        return Request.from_json(config, **values)
    missing = [name.upper() for name in POSITIONAL if name not in values]
    if missing:
        raise InputError(
            f"{' and '.join(missing)} not given; name the fixed and the moving image, or"
            " give --config with the config.json of a result"
        )
    return Request(**values)


def _show_plan(job: "Job") -> int:
    """The checked geometry and the stages of a job."""
    from inrreg.app.plan import plan

    for name, finding in plan(job):
        out.print(f"{name:<12} {finding}", markup=False, highlight=False, soft_wrap=True)
    return 0


def parsed_settings(assignments: tuple[str, ...]) -> dict[str, object]:
    """The settings of ``name=value`` texts; the last one of a name counts.

    Raises:
        InputError: a text without ``=``.
    """
    settings: dict[str, object] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(
                f"the setting {text!r} has no value; write it as STAGE.OPTION=VALUE, for instance"
                " continuous.optimiser.learning_rate=0.2"
            )
        settings[name] = value
    return settings
