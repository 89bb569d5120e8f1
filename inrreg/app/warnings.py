"""Collects the warnings of one run for metrics.json and the report."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class _Collector(logging.Handler):
    """Collects the warnings of the run that is current in this context, in whichever thread."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.sentences = list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        if _current.get() is self:
            self.sentences.append(record.getMessage())


_current: ContextVar[_Collector | None] = ContextVar("collector of warnings", default=None)


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """The warnings that are logged inside the block."""
    collector = _Collector()
    loggers = [logging.getLogger(package) for package in ("inrreg", "graphreg")]
    for logger in loggers:
        logger.addHandler(collector)
    token = _current.set(collector)
    try:
        yield collector.sentences
    finally:
        _current.reset(token)
        for logger in loggers:
            logger.removeHandler(collector)
