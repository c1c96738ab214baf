"""The sync client: the async client's methods as plain calls, and the one-liners for a first cell."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import TYPE_CHECKING, Self, Unpack

from foundry_lab.calls import portal
from foundry_lab.calls.chat import ChatOptions, ChatRequest
from foundry_lab.calls.core import LOAD_TIMEOUT_S, ClientCore
from foundry_lab.calls.download import DOWNLOAD_TIMEOUT_S, Report, reporter
from foundry_lab.calls.models import Directory
from foundry_lab.calls.streams import SyncCompletionStream
from foundry_lab.config import Settings
from foundry_lab.types import Completion, Health, Model

if TYPE_CHECKING:
    from foundry_lab.batch.options import BatchOptions, Items
    from foundry_lab.batch.report import BatchReport


class SyncFoundryAPIClient(ClientCore):
    """Sync client of one Foundry Local service; safe to use from several threads and after a fork.

    Works as `with SyncFoundryAPIClient() as client:` and without, connecting at first use. The arguments are
    `ClientCore`'s, the methods `FoundryAPIClient`'s.
    """

    def complete(self, prompt: str | None = None, **options: Unpack[ChatOptions]) -> Completion:
        """Return one whole answer. See `ChatOptions` for the options.

        Raises:
            FoundryError: one of the tree in `foundry_lab.errors`.
        """
        request = ChatRequest.build(prompt, options, self.settings.timeout)
        return portal.wait(self.caller.perform(request))

    def stream_complete(
        self, prompt: str | None = None, **options: Unpack[ChatOptions]
    ) -> SyncCompletionStream:
        """Return an answer to iterate over as it is written: `for chunk in client.stream_complete(…)`.

        Nothing is sent before the iteration starts. As `with client.stream_complete(…) as stream:` the
        generation is cancelled at the service when the block is left early.

        Raises:
            ConfigurationError: an argument that can't be used. Everything else is raised by the iteration.
        """
        request = ChatRequest.build(prompt, options, self.settings.timeout, stream=True)
        return SyncCompletionStream(self.caller, request)

    def complete_batch(self, items: Items, **options: Unpack[BatchOptions]) -> BatchReport:
        """Have many requests answered, as `FoundryAPIClient.complete_batch`; return when it has ended."""
        from foundry_lab.batch.run import run_batch

        # A loop of its own: the caller's input may be slow to read, and others mustn't wait for it.
        with portal.Portal("foundry-lab batch") as own:
            return own.wait(run_batch(self, items, options))

    def health_check(self, *, probe: bool = False, timeout: float | None = None) -> Health:
        """Look at the service once. A service that is down gives `status == "unavailable"`, not an error.

        Args:
            probe: also have one token generated, by the model that a completion without a name would take.
            timeout: seconds for the answer; the client's own limit if not given.
        """
        return portal.wait(self.caller.health(probe=probe, timeout_s=timeout))

    def list_models(self) -> list[Model]:
        """Return every model the service knows."""
        return portal.wait(self.caller.manage("list_models", Directory.list_models))

    def loaded_models(self) -> list[str]:
        """Return the ids of the models in memory."""
        return portal.wait(self.caller.manage("loaded_models", Directory.loaded_models))

    def load_model(self, name: str, *, timeout: float = LOAD_TIMEOUT_S) -> Model:
        """Load a model by alias or id; `timeout` in seconds."""
        return portal.wait(self.caller.change_model(name, timeout, loaded=True))

    def unload_model(self, name: str, *, timeout: float = LOAD_TIMEOUT_S) -> Model:
        """Unload a model by alias or id, waiting while requests use it; `timeout` in seconds.

        Raises:
            ModelBusyError: it is still in use after `timeout`.
        """
        return portal.wait(self.caller.change_model(name, timeout, loaded=False))

    def download_model(
        self, name: str, *, progress: bool | Report = True, timeout: float = DOWNLOAD_TIMEOUT_S
    ) -> Model:
        """Have the lab's service download a model, as `FoundryAPIClient.download_model` does."""
        with reporter(name, progress) as report:
            act = partial(Directory.download, name=name, report=report)
            return portal.wait(self.caller.manage("download_model", act, timeout))

    def close(self) -> None:
        """Close the connections. The client can be used again and then opens new ones."""
        portal.wait(self.caller.transport.close())

    def __enter__(self) -> Self:
        portal.wait(self.caller.connected())
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@lru_cache(maxsize=1)
def _client(settings: Settings) -> SyncFoundryAPIClient:
    """The client that the one-liners share for as long as the environment says the same."""
    return SyncFoundryAPIClient(settings=settings)


def complete(prompt: str | None = None, **options: Unpack[ChatOptions]) -> Completion:
    """Return one whole answer from the service that the environment or the engine names, by a shared client.

    Raises:
        FoundryError: as `SyncFoundryAPIClient.complete`.
    """
    return _client(Settings()).complete(prompt, **options)


def stream(prompt: str | None = None, **options: Unpack[ChatOptions]) -> SyncCompletionStream:
    """Return an answer to iterate over as it is written, by a shared client.

    Raises:
        FoundryError: as `SyncFoundryAPIClient.stream_complete`.
    """
    return _client(Settings()).stream_complete(prompt, **options)
