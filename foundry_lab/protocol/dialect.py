"""The two contracts that Foundry Local services speak: the routes that differ between them."""

from urllib.parse import quote

import msgspec

from foundry_lab.types import Model


class Dialect(msgspec.Struct, frozen=True):
    """Routes of one contract.

    Attributes:
        changes: where the routes for loading and unloading begin.
        by_alias: these take a model's alias, not its id.
    """

    status: str
    models: str
    loaded: str
    changes: str
    by_alias: bool

    def change(self, what: str, model: Model) -> str:
        """Return the route to "load" or "unload" a model, as `what` says."""
        name = model.alias if self.by_alias else model.id
        return f"{self.changes}/{what}/{quote(name, safe=':')}"  # the service decodes no %3A


CURRENT = Dialect("/status", "/v1/models", "/models/loaded", changes="/models", by_alias=True)
"""SDK 2.x: loading takes the alias and nothing else (read off foundry-local-sdk 2.2.1)."""

LEGACY = Dialect(
    "/openai/status", "/openai/models", "/openai/loadedmodels", changes="/openai", by_alias=False
)
"""The service of the `foundry` command before SDK 2, as its REST reference documents it."""
