"""Downloads of models by the lab's service: lines of progress in, a bar or the caller's function out."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec

from foundry_lab.config import check_model_name
from foundry_lab.errors import EngineError, ResponseFormatError, StreamInterruptedError
from foundry_lab.protocol.reply import UNREADABLE, excerpt

DOWNLOAD_TIMEOUT_S = 6 * 3600.0
"""Default limit: gigabytes over a slow line."""
MAX_LINE_BYTES = 1024 * 1024

Report = Callable[[float], object]
"""Takes the percent done, 0 to 100."""


class _Line(msgspec.Struct):
    percent: float | None = None
    done: bool = False
    error: str | None = None


class DownloadLines:
    """Reads the service's lines of JSON, fed in any split, and reports the percent they tell.

    Attributes:
        done: the service has said that the model is there.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._rest = b""
        self.done = False

    def feed(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            EngineError: the download failed; in the service's words.
            ResponseFormatError: what came is no line of progress.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            raise ResponseFormatError(f"A line of progress is longer than {MAX_LINE_BYTES:,} bytes.")
        for text in lines:
            try:
                line = msgspec.json.decode(text, type=_Line)
            except UNREADABLE as error:
                raise ResponseFormatError(
                    f"The service sent no line of progress ({error}): {excerpt(text)}."
                ) from None
            if line.error is not None:
                raise EngineError(line.error)
            self.done = self.done or line.done
            if line.percent is not None:
                self._report(line.percent)

    def end(self) -> None:
        """Say that no more bytes come.

        Raises:
            StreamInterruptedError: the model isn't there yet.
        """
        if not self.done:
            raise StreamInterruptedError(
                "The service stopped telling of the download before it was done. See `foundry-lab status`, "
                "then start it again; what has come isn't lost."
            )


@contextmanager
def reporter(name: str, progress: bool | Report) -> Iterator[Report]:
    """Give the function that shows progress: the caller's own, or a bar, or nothing.

    Raises:
        ConfigurationError: that isn't a model's name.
    """
    check_model_name(name)
    if callable(progress):
        yield progress
    elif not progress:
        yield lambda percent: None
    else:
        from tqdm.auto import tqdm

        with tqdm(total=100, desc=name, bar_format="{desc}: {percentage:3.0f}% {bar} {elapsed}") as bar:
            yield lambda percent: bar.update(percent - bar.n)
