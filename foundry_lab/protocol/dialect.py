"""The two contracts that Foundry Local services speak: the routes that differ between them."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import msgspec

from foundry_lab.types import Model


class Dialect(msgspec.Struct, frozen=True):
    """Routes of one contract. `load` and `unload` build the route for a model."""

    status: str
    models: str
    loaded: str
    load: Callable[[Model], str]
    unload: Callable[[Model], str]


CURRENT = Dialect(
    status="/status",
    models="/v1/models",
    loaded="/models/loaded",
    load=lambda model: f"/models/load/{quote(model.alias, safe='')}",
    unload=lambda model: f"/models/unload/{quote(model.alias, safe='')}",
)
"""SDK 2.x: loading takes the alias and nothing else (read off foundry-local-sdk 2.2.1)."""

LEGACY = Dialect(
    status="/openai/status",
    models="/openai/models",
    loaded="/openai/loadedmodels",
    load=lambda model: f"/openai/load/{quote(model.id, safe=':')}",
    unload=lambda model: f"/openai/unload/{quote(model.id, safe=':')}",
)
"""The service of the `foundry` command before SDK 2, as its REST reference documents it."""
