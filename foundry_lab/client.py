"""The async client: direct HTTP to a Foundry Local service over one pooled aiohttp session."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar, Unpack
from weakref import WeakKeyDictionary

import aiohttp
import msgspec
from yarl import URL

from . import chat, health, protocol
from .async_stream import CompletionStream
from .async_transport import Sessions, as_payload, read_body, time_limits
from .chat import ChatOptions, ChatRequest
from .config import check_timeout
from .core import (
    LOAD_TIMEOUT_S,
    ClientCore,
    Target,
    connect_timeout,
    hung_up,
    nobody_answers,
    not_http,
    relocate,
)
from .download import DOWNLOAD_TIMEOUT_S, Report, reporter
from .errors import FoundryError, RequestTimeoutError
from .metrics import Record
from .operations import Operation, Pause
from .protocol import Call, Reply
from .resilience import Deadline
from .types import Completion, Health, Model

if TYPE_CHECKING:
    from .batch.options import BatchOptions, Items
    from .batch.report import BatchReport

T = TypeVar("T")
Send = Callable[[Call, Deadline, Record], Awaitable[Reply]]


class FoundryAPIClient(ClientCore):
    """Async client of one Foundry Local service.

    Works as `async with FoundryAPIClient() as client:` and without, connecting at first use. Inside a
    notebook just `await` its methods. It can be used in several event loops, also at once. The arguments are
    `ClientCore`'s.
    """

    def _set_up(self) -> None:
        self._sessions = Sessions(self._headers)
        weakref.finalize(self, self._sessions.abandon)
        self._searches: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()

    async def complete(self, prompt: str | None = None, **options: Unpack[ChatOptions]) -> Completion:
        """Return one whole answer. See `ChatOptions` for the options.

        Raises:
            FoundryError: one of the tree in `foundry_lab.errors`.
        """
        return await self._complete(ChatRequest.build(prompt, options, self.settings.timeout))

    async def _complete(self, request: ChatRequest, send: Send | None = None) -> Completion:
        with self._observed("complete", request) as record:
            deadline = await self._deadline(request.timeout_s)
            completion = await self._run(
                lambda: chat.complete(self._directory, request), deadline, record, send
            )
            record.model, record.usage = completion.model, None if completion.cached else completion.usage
            return completion

    def stream_complete(self, prompt: str | None = None, **options: Unpack[ChatOptions]) -> CompletionStream:
        """Return an answer to iterate over as it is written: `async for chunk in client.stream_complete(…)`.

        Nothing is sent before the iteration starts. As `async with client.stream_complete(…) as stream:` the
        generation is cancelled at the service when the block is left early.

        Raises:
            ConfigurationError: an argument that can't be used. Everything else is raised by the iteration.
        """
        return CompletionStream(self, ChatRequest.build(prompt, options, self.settings.timeout, stream=True))

    async def complete_batch(self, items: Items, **options: Unpack[BatchOptions]) -> BatchReport:
        """Have many requests answered, each result on disk before it counts. See `BatchOptions`.

        Args:
            items: prompts, dicts of `complete`'s arguments or lines of the OpenAI Batch format, in a list, an
                iterator or an async iterator; or a `pathlib.Path` of a .jsonl, .csv, .tsv or .txt file.

        Raises:
            ConfigurationError: items or options that can't be used; nothing was sent.
            BatchOutputError: the output can't be used; nothing was sent.
            BatchStoppedError: it had to stop; `.report` tells how far it came, and running it again goes on.
        """
        from .batch.run import run_batch

        return await run_batch(self, items, options)

    async def health_check(self, *, probe: bool = False, timeout: float | None = None) -> Health:
        """Look at the service once. A service that is down gives `status == "unavailable"`, not an error.

        Args:
            probe: also have one token generated.
            timeout: seconds for the answer; the client's own limit if not given.
        """
        limit_s = self.settings.timeout if timeout is None else check_timeout(timeout)
        try:
            target = await self._connected()
        except FoundryError as error:
            return health.unreachable(self.settings.endpoint, error)
        return await self._manage(
            "health_check",
            lambda: health.check(self._directory, target.endpoint, target.versions, probe=probe),
            limit_s,
        )

    async def list_models(self) -> list[Model]:
        """Return every model the service knows."""
        return await self._manage("list_models", lambda: self._directory.list_models(), self.settings.timeout)

    async def loaded_models(self) -> list[str]:
        """Return the ids of the models in memory."""
        return await self._manage(
            "loaded_models", lambda: self._directory.loaded_models(), self.settings.timeout
        )

    async def load_model(self, name: str, *, timeout: float = LOAD_TIMEOUT_S) -> Model:
        """Load a model by alias or id; `timeout` in seconds."""
        return await self._manage("load_model", lambda: self._directory.load(name, timeout), timeout)

    async def unload_model(self, name: str, *, timeout: float = LOAD_TIMEOUT_S) -> Model:
        """Unload a model by alias or id, waiting while requests use it; `timeout` in seconds.

        Raises:
            ModelBusyError: it is still in use after `timeout`.
        """
        return await self._manage("unload_model", lambda: self._directory.unload(name, timeout), timeout)

    async def download_model(
        self, name: str, *, progress: bool | Report = True, timeout: float = DOWNLOAD_TIMEOUT_S
    ) -> Model:
        """Have the lab's service download a model by alias or id; one that is there already is not fetched.

        Args:
            progress: show a bar, or not, or call this function with the percent done.
            timeout: seconds for everything. A download that was cut short goes on where it stopped.

        Raises:
            EngineError: the download failed.
            ConfigurationError: the service isn't the lab's own, and so can't be asked to.
        """
        with reporter(name, progress) as report:
            return await self._manage(
                "download_model", lambda: self._directory.download(name, report), timeout
            )

    async def close(self) -> None:
        """Close the connections, but for those of event loops that run in other threads.

        The client can be used again and then opens new ones.
        """
        await self._sessions.close()

    aclose = close

    async def __aenter__(self) -> FoundryAPIClient:
        await self._connected()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # --- one request travels: operation -> policies -> exchange ---------------------------------------

    async def _manage(self, name: str, start: Callable[[], Operation[T]], timeout_s: float) -> T:
        with self._observed(name) as record:
            deadline = await self._deadline(check_timeout(timeout_s))
            return await self._run(start, deadline, record)

    async def _deadline(self, limit_s: float) -> Deadline:
        """Begin a request's time when the service is known: finding or starting it doesn't count."""
        if self._target is None:
            await self._connected()
        return Deadline(limit_s)

    async def _run(
        self,
        start: Callable[[], Operation[T]],
        deadline: Deadline,
        record: Record,
        send: Send | None = None,
    ) -> T:
        """Drive an operation to its result. `start` makes it; the service is known."""
        operation = start()
        reply: Reply | None = None
        error: FoundryError | None = None
        while True:
            try:
                step = operation.send(reply) if error is None else operation.throw(error)
            except StopIteration as stop:
                return stop.value
            reply = error = None
            try:
                if isinstance(step, Pause):
                    await asyncio.sleep(min(step.seconds, deadline.remaining()))
                else:
                    reply = await (send or self._send)(step, deadline, record)
            except FoundryError as caught:
                error = caught

    async def _send(self, call: Call, deadline: Deadline, record: Record) -> Reply:
        """Have one call answered: by the cache where it can, else by the service."""
        key = self.cache.key(call) if self.cache is not None else None
        if self.cache is None or key is None:
            return await self._ask(call, deadline, record)
        return await self.cache.answer(
            key, record.request_id, deadline, lambda: self._ask(call, deadline, record)
        )

    async def _ask(self, call: Call, deadline: Deadline, record: Record) -> Reply:
        """Send one call under the policies: deadline over all attempts, breaker around each."""
        if call.once:
            return await self._exchange(call, deadline, record.request_id)
        sent = 0
        try:
            with self._guard():
                return await self._exchange(call, deadline, record.request_id)
        except FoundryError as error:
            failed = error
        async for attempt in self.retry.attempts(deadline):  # its first attempt is the one that failed
            with attempt:
                sent += 1
                if sent == 1:
                    raise failed
                record.retries += 1
                with self._guard():
                    reply = await self._exchange(call, deadline, record.request_id)
        return msgspec.structs.replace(reply, attempts=sent)

    async def _exchange(self, call: Call, deadline: Deadline, request_id: str) -> Reply:
        """Send one call once and read its whole reply."""
        try:
            async with asyncio.timeout(limit_s := deadline.remaining()):
                response = await self._dispatch(call, request_id, limit_s)
                watch = call.on_data if response.status == 200 else None
                body = await read_body(response, watch)
        except RequestTimeoutError:
            raise
        except TimeoutError:
            raise deadline.error() from None
        reply = Reply(response.status, response.headers, body, request_id)
        protocol.raise_for_status(reply, may_be_empty=call.may_be_empty)
        return reply

    async def _dispatch(self, call: Call, request_id: str, limit_s: float) -> aiohttp.ClientResponse:
        """Send a call; return the response when its headers are there. The caller keeps the limit."""
        target = self._target or await self._connected()
        base, headers = target.endpoint, {"X-Request-Id": request_id}
        if call.control:
            assert target.control_url is not None, "only the lab's own service has a control route"
            base, headers["Authorization"] = target.control_url, f"Bearer {target.control_token}"
        limits = time_limits(limit_s)
        try:
            return await self._sessions.here().request(
                call.method,
                URL(base + call.path, encoded=True),
                data=as_payload(call.body),
                headers=headers,
                allow_redirects=False,
                timeout=limits,
            )
        except aiohttp.ConnectionTimeoutError:  # as in the sync client
            await self._look_elsewhere()
            raise connect_timeout(base, limits.sock_connect or limit_s, found=target.found) from None
        except aiohttp.ClientConnectorError as error:
            await self._look_elsewhere()
            reason = error.os_error.strerror or error.os_error
            raise nobody_answers(base, reason, found=target.found) from None
        except aiohttp.ClientResponseError as error:
            raise not_http(base, error.message) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            raise hung_up(base, error) from None

    # --- connection -----------------------------------------------------------------------------------

    async def _connected(self) -> Target:
        """Return the service, finding or starting it the first time."""
        if self._target is not None:
            return self._target
        async with self._searches.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            return await asyncio.to_thread(self._search)  # of each loop one thread at a time

    async def _look_elsewhere(self) -> None:
        """The service is gone from where it was: take the place where a lab service runs now, if one does."""
        if self._target is not None and self._target.found:
            moved = await asyncio.to_thread(relocate, self._target)
            if moved is not None:
                self._connect_to(moved)
