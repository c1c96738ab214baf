"""Log lines of the clients: quiet unless asked for, one line a request, as text or as JSON.

    from foundry_lab.logs import configure_logging
    configure_logging(json=True)

Prompts are logged only with `prompts=`, and cut. Answers, headers and keys are never logged; nor are the
messages of errors, which may quote them: of a failed request the log has the outcome and the kind of error.
"""

import json as jsonlib
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, TextIO

import msgspec

from foundry_lab.config import Settings, check_log_level
from foundry_lab.errors import ConfigurationError

LOGGER = "foundry_lab"
TEXT_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

_undo = ExitStack()
"""Takes back what `configure_logging` did."""
prompt_length = 0
"""Characters of each request's last message that are logged, as `configure_logging` was told."""


def configure_logging(
    level: str | None = None,
    *,
    json: bool = False,
    stream: TextIO | None = None,
    prompts: int | bool = False,
) -> logging.Handler:
    """Write the package's log lines; called again, it replaces what it set up before.

    Requests that worked are INFO, those that failed WARNING, health checks DEBUG.

    Args:
        level: name of a level; FOUNDRY_LOG_LEVEL, or else INFO, if not given.
        json: one JSON object a line instead of text.
        stream: where to; stderr if not given.
        prompts: log the first so many characters of each request's last message; True means 200.

    Returns:
        the handler, for those who want another formatter.

    Raises:
        ConfigurationError: a level that doesn't exist, a length that is no number from 0, a stream that is
            none.
    """
    global prompt_length
    chosen = check_log_level(level) if level is not None else Settings().log_level
    if not isinstance(prompts, int) or prompts < 0:
        raise ConfigurationError(f"prompts={prompts!r} must be a number of characters, or False for none.")
    if stream is not None and not hasattr(stream, "write"):
        raise ConfigurationError(
            f"stream={stream!r} can't be written to. Give an open file, such as open('requests.log', 'a')."
        )
    reset_logging()
    handler = logging.StreamHandler(stream or sys.stderr)
    formatter: logging.Formatter = JsonFormatter() if json else logging.Formatter(TEXT_FORMAT)
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logger = logging.getLogger(LOGGER)
    _undo.callback(logger.removeHandler, handler)
    _undo.callback(logger.setLevel, logger.level)
    _undo.callback(setattr, logger, "propagate", logger.propagate)
    logger.addHandler(handler)
    logger.setLevel(chosen)
    logger.propagate = False  # or a root handler would say it all again
    prompt_length = 200 if prompts is True else int(prompts)
    return handler


def reset_logging() -> None:
    """Be quiet again."""
    global prompt_length
    _undo.close()
    prompt_length = 0


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, and a request's facts or the message."""

    default_time_format = "%Y-%m-%dT%H:%M:%S"  # as RFC 3339 writes it, in UTC's time: see `converter` above
    default_msec_format = "%s.%03dZ"

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
        }
        request = getattr(record, "record", None)
        if isinstance(request, msgspec.Struct):
            line |= _facts(request)
        else:
            line["message"] = record.getMessage()
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return jsonlib.dumps(line)  # ASCII: a Windows stream has letters that JSON doesn't have


def _facts(request: msgspec.Struct) -> dict[str, Any]:
    """Return a request's facts without those that aren't known; times to the millisecond."""
    facts = msgspec.to_builtins(request)
    usage = facts.pop("usage") or {}
    facts["attempts"] = facts.pop("retries") + 1
    known = {name: value for name, value in {**facts, **usage}.items() if value not in (None, "")}
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in known.items()}


def one_line(name: str) -> str:
    """Return a name as a line of the log can hold it: one that a service gives may forge no second line."""
    return name if name.isprintable() else ascii(name)[1:-1]


def prompt_excerpt(messages: Sequence[Mapping[str, Any]]) -> str:
    """Return the beginning of the last message, as far as `configure_logging` allows it to be logged."""
    if not messages:
        return ""
    content = messages[-1].get("content") or ""
    text = content if isinstance(content, str) else jsonlib.dumps(content, default=str)
    return text[:prompt_length] + ("…" if len(text) > prompt_length else "")
