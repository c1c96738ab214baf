"""The async client: direct HTTP to a Foundry Local service over one pooled aiohttp session."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Self, Unpack

from foundry_lab.calls.chat import ChatOptions, ChatRequest
from foundry_lab.calls.core import LOAD_TIMEOUT_S, ClientCore
from foundry_lab.calls.download import DOWNLOAD_TIMEOUT_S, Report, reporter
from foundry_lab.calls.models import Directory
from foundry_lab.calls.streams import CompletionStream
from foundry_lab.types import Completion, Health, Model

if TYPE_CHECKING:
    from foundry_lab.batch.options import BatchOptions, Items
    from foundry_lab.batch.report import BatchReport


class FoundryAPIClient(ClientCore):
    """Async client of one Foundry Local service.

    Works as `async with FoundryAPIClient() as client:` and without, connecting at first use. Inside a
    notebook just `await` its methods. It can be used in several event loops, also at once. The arguments are
    `ClientCore`'s.
    """

    async def complete(self, prompt: str | None = None, **options: Unpack[ChatOptions]) -> Completion:
        """Return one whole answer. See `ChatOptions` for the options.

        Raises:
            FoundryError: one of the tree in `foundry_lab.errors`.
        """
        request = ChatRequest.build(prompt, options, self.settings.timeout)
        return await self.caller.perform(request)

    def stream_complete(self, prompt: str | None = None, **options: Unpack[ChatOptions]) -> CompletionStream:
        """Return an answer to iterate over as it is written: `async for chunk in client.stream_complete(…)`.

        Nothing is sent before the iteration starts. As `async with client.stream_complete(…) as stream:` the
        generation is cancelled at the service when the block is left early.

        Raises:
            ConfigurationError: an argument that can't be used. Everything else is raised by the iteration.
        """
        request = ChatRequest.build(prompt, options, self.settings.timeout, stream=True)
        return CompletionStream(self.caller, request)

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
        from foundry_lab.batch.run import run_batch

        return await run_batch(self, items, options)

    async def health_check(self, *, probe: bool = False, timeout: float | None = None) -> Health:
        """Look at the service once. A service that is down gives `status == "unavailable"`, not an error.

        Args:
            probe: also have one token generated, by the model that a completion without a name would take.
            timeout: seconds for the answer; the client's own limit if not given.
        """
        return await self.caller.health(probe=probe, timeout_s=timeout)

    async def list_models(self) -> list[Model]:
        """Return every model the service knows."""
        return await self.caller.manage("list_models", Directory.list_models)

    async def loaded_models(self) -> list[str]:
        """Return the ids of the models in memory."""
        return await self.caller.manage("loaded_models", Directory.loaded_models)

    async def load_model(self, name: str, *, timeout: float = LOAD_TIMEOUT_S) -> Model:
        """Load a model by alias or id; `timeout` in seconds."""
        return await self.caller.change_model(name, timeout, loaded=True)

    async def unload_model(self, name: str, *, timeout: float = LOAD_TIMEOUT_S) -> Model:
        """Unload a model by alias or id, waiting while requests use it; `timeout` in seconds.

        Raises:
            ModelBusyError: it is still in use after `timeout`.
        """
        return await self.caller.change_model(name, timeout, loaded=False)

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
            act = partial(Directory.download, name=name, report=report)
            return await self.caller.manage("download_model", act, timeout)

    async def close(self) -> None:
        """Close the connections, but for those of event loops that run in other threads.

        The client can be used again and then opens new ones.
        """
        await self.caller.transport.close()

    aclose = close

    async def __aenter__(self) -> Self:
        await self.caller.connected()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
