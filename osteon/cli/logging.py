"""What a role writes to standard error: one line an event, for people or as JSON.

Called once by ``serve``, before the role's own room is loaded. Events of structlog and of the
standard library's loggers (pynetdicom, uvicorn) leave in one format through one handler.
"""

import logging
import sys
from types import TracebackType
from typing import TextIO

import structlog
from structlog.typing import Processor

from osteon.config.settings import LogSettings

# They say everything twice, or at length; what matters of it is logged by the rooms themselves.
_QUIET = ("pynetdicom", "pydicom", "uvicorn", "asyncio", "multipart")


def configure_logging(settings: LogSettings, role: str, stream: TextIO = sys.stderr) -> None:
    """Send every log event of this process to a stream.

    Parameters
    ----------
    settings : LogSettings
        Lowest level, and whether people or programs read it.
    role : str
        Stands in every event, since the roles of one node often share a stream.
    """
    people = settings.format == "console"
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=not people),
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.StackInfoRenderer(),
    ]
    shared += [] if people else [structlog.processors.format_exc_info]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(
            colors=stream.isatty(),
            sort_keys=False,
            # The one with local variables could write a patient's name into the log.
            exception_formatter=structlog.dev.plain_traceback,
        )
        if people
        else structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)
    sys.excepthook = _log_crash
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(role=role)


def _log_crash(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Write what ends this process as one event, so that no log reader meets a bare traceback."""
    structlog.get_logger(__name__).critical("process ends", exc_info=(kind, error, trace))
