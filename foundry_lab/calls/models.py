"""The service's models as operations: what there is, what names mean, loading, unloading, downloading."""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable

import msgspec

from foundry_lab import errors, protocol
from foundry_lab._ground.checks import did_you_mean
from foundry_lab.calls.download import DownloadLines, Report
from foundry_lab.config import DEFAULT_MODEL, Settings, check_model_name
from foundry_lab.logs import LOGGER, one_line
from foundry_lab.protocol import Call, Reply
from foundry_lab.protocol.dialect import CURRENT, LEGACY, Dialect
from foundry_lab.protocol.failure import UNKNOWN_ROUTE
from foundry_lab.types import Model

BUSY_POLL_S = 0.25

Ask = Callable[[Call], Awaitable[Reply]]
"""Has a call answered, under the client's policies and the limits of what is under way."""

_log = logging.getLogger(LOGGER)


class _ModelList(msgspec.Struct):
    class Entry(msgspec.Struct):
        id: str
        owned_by: str | None = None

    data: list[Entry] = []


def alias_of(model_id: str) -> str:
    """Return the alias that Microsoft's naming suggests for an id.

    "Phi-4-mini-instruct-generic-cpu:5" gives "phi-4-mini". It is a guess, right for most of the catalog; the
    lab's own service tells aliases exactly.
    """
    name = re.sub(r":\d+$", "", model_id.lower())
    name = re.sub(r"-(cpu|gpu|npu)$", "", name)
    name = re.sub(r"-(generic|cuda|webgpu|openvino|qnn|vitis|trtrtx|tensorrt)$", "", name)
    return re.sub(r"-(instruct|chat)$", "", name)


class Directory:
    """The service's models: what is there, what names mean, loading and unloading.

    Args:
        settings: for the model that was asked for.
        has_control: the service is the lab's own and tells details on its control route.
    """

    def __init__(self, settings: Settings, *, has_control: bool = False) -> None:
        self._settings = settings
        self._has_control = has_control
        self._dialect: Dialect | None = None
        self._chosen: dict[str | None, str] = {}

    async def dialect(self, ask: Ask) -> Dialect:
        """Find out, the first time, which of the two known contracts the service speaks."""
        if self._dialect is None:
            try:
                await ask(Call("GET", CURRENT.status))
                self._dialect = CURRENT
            except errors.BadRequestError as error:
                if error.status not in UNKNOWN_ROUTE:
                    raise
                try:
                    await ask(Call("GET", LEGACY.status))
                except errors.BadRequestError:  # neither: tell what it says to the route of today's services
                    raise errors.ResponseFormatError(
                        f"What answers isn't Foundry Local: it knows neither {CURRENT.status} nor "
                        f"{LEGACY.status}, and says {error.status}: {error.message}. Check the endpoint "
                        "and its port."
                    ) from None
                self._dialect = LEGACY
        return self._dialect

    async def loaded_models(self, ask: Ask) -> list[str]:
        """Return the ids of the models in memory."""
        dialect = await self.dialect(ask)
        reply = await ask(Call("GET", dialect.loaded))
        return protocol.decode(reply, list[str], "a list of loaded models")

    async def list_models(self, ask: Ask) -> list[Model]:
        """Return every model the service knows, the loaded ones marked."""
        if self._has_control:
            reply = await ask(Call("GET", "/control/models", control=True))
            return protocol.decode(reply, list[Model], "the lab's model catalog")
        dialect = await self.dialect(ask)
        reply = await ask(Call("GET", dialect.models))
        if dialect is LEGACY:
            names = protocol.decode(reply, list[str], "a list of models")
            entries = [_ModelList.Entry(name) for name in names]
        else:
            entries = protocol.decode(reply, _ModelList, "a model list").data
        loaded = await self.loaded_models(ask)
        return [
            Model(
                id=entry.id,
                alias=alias_of(entry.id),
                loaded=any(same_model(entry.id, name) for name in loaded),
                owned_by=entry.owned_by,
            )
            for entry in entries
        ]

    async def find(self, ask: Ask, name: str) -> Model:
        """Return the model with this alias or id.

        Raises:
            ModelNotFoundError: there is none; `.available` and the message name what would work.
            ConfigurationError: that isn't a name.
        """
        check_model_name(name)
        models = await self.list_models(ask)
        low = name.lower()
        matches = [model for model in models if model.id.lower() == low] or [
            model for model in models if model.alias.lower() == low or same_model(model.id, name)
        ]
        if not matches:
            raise _not_found(name, models)
        return max(matches, key=lambda model: (model.loaded, bool(model.cached)))

    async def choose(self, ask: Ask, name: str | None) -> str:
        """Return the id that a completion should name.

        A model that somebody asked for, in the call or in the settings, is used or refused. If nobody did, it
        is `DEFAULT_MODEL` where that is loaded, else the loaded chat model, and the log says which.

        Raises:
            ModelNotFoundError: the service doesn't have it.
            ModelNotLoadedError: nobody asked for one and none is loaded.
        """
        wanted = self._wanted(name)
        chosen = self._chosen.get(wanted)
        if chosen is None:  # another thread may forget it again at any time
            if wanted is None:
                chosen = await self._loaded_chat_model(ask)
            else:
                chosen = (await self.find(ask, wanted)).id
            self._chosen[wanted] = chosen
        return chosen

    def meaning(self, name: str | None) -> str:
        """Return the id that `choose` last took for a name, else the name, else nothing."""
        wanted = self._wanted(name)
        return self._chosen.get(wanted) or wanted or ""

    def forget(self) -> None:
        """Drop what names mean, as models came or went."""
        self._chosen.clear()

    def _wanted(self, name: str | None) -> str | None:
        return name or (self._settings.model if self._settings.model_is_explicit else None)

    async def change(self, ask: Ask, name: str, limit_s: float, *, loaded: bool) -> Model:
        """Load or unload a model, waiting while it is busy for at most `limit_s` seconds; return it then."""
        # An answer takes time as well: a look that has too little would end as a timeout, and not say why.
        last_wait_at = time.monotonic() + limit_s - BUSY_POLL_S - min(1.0, limit_s / 4)
        model = await self.find(ask, name)
        dialect = await self.dialect(ask)
        path = dialect.change("load" if loaded else "unload", model)
        call = Call("GET", path)  # of the answer only the status counts: the legacy contract says no more
        while True:
            try:
                await ask(call)
                break
            except errors.ModelBusyError:
                if time.monotonic() >= last_wait_at:
                    raise
                await asyncio.sleep(BUSY_POLL_S)
        self.forget()
        return msgspec.structs.replace(model, loaded=loaded)

    async def download(self, ask: Ask, name: str, report: Report) -> Model:
        """Have the lab's service fetch a model; return it as it is then.

        Raises:
            ConfigurationError: the service isn't the lab's own.
            EngineError: the download failed.
        """
        if not self._has_control:
            raise errors.ConfigurationError(
                "Only the lab's own service can be asked to download. For another Foundry Local service use "
                f"its own command there: foundry model download {name}."
            )
        model = await self.find(ask, name)
        lines = DownloadLines(report)
        body = msgspec.json.encode({"alias": model.id})
        await ask(Call("POST", "/control/download", body, control=True, once=True, on_data=lines.feed))
        lines.end()
        self.forget()
        return await self.find(ask, model.id)

    async def _loaded_chat_model(self, ask: Ask) -> str:
        models = await self.list_models(ask)
        ready = [model for model in models if model.loaded and model.task in (None, "chat-completion")]
        ready.sort(key=lambda model: model.alias.lower() != DEFAULT_MODEL)
        if not ready:
            names = ", ".join(sorted({model.alias for model in models})) or "none; is its catalog reachable?"
            raise errors.ModelNotLoadedError(
                "No chat model is loaded",
                status=400,
                by_service=False,
                hint=f"Load one with load_model(alias); the service knows: {names}.",
            )
        _log.info("no model was asked for; using %s, which is loaded", one_line(ready[0].id))
        return ready[0].id


def same_model(model_id: str, name: str) -> bool:
    """Compare ids; the version counts only where both name one (older services leave it out)."""
    a, b = model_id.lower(), name.lower()
    if (":" in a) == (":" in b):
        return a == b
    return a.partition(":")[0] == b.partition(":")[0]


def _not_found(name: str, models: list[Model]) -> errors.ModelNotFoundError:
    aliases = sorted({model.alias for model in models})
    names = aliases + sorted(model.id for model in models)
    known = ", ".join(aliases) if aliases else "none: its catalog may be out of reach"
    error = errors.ModelNotFoundError(
        f"The service has no model {name!r}",
        status=404,
        by_service=False,
        hint=f"{did_you_mean(name, names)}It has: {known}.",
    )
    error.available = tuple(names)
    return error
