"""Settings: what the environment says, checked once and with a useful complaint."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable
from functools import partial
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec
from msgspec.structs import force_setattr

from foundry_lab._ground.checks import check_kind, check_retries, check_timeout
from foundry_lab.errors import ConfigurationError

DEFAULT_MODEL = "phi-4-mini"
DEFAULT_RETRIES = 3
_PASTED_PATHS = ("", "/v1", "/v1/models", "/v1/chat/completions", "/status", "/openai/status")

_HOST = re.compile(r"(\[[^\s\0\[\]]+\]|[^\s\0\[\]\\%]+)(:\d*)?")
"""And port. A zone may have its percent sign, in the brackets of an IPv6 address."""


def check_endpoint(value: str, name: str = "endpoint") -> str:
    """Return the service's base address, without what people paste along with it, such as `/v1`.

    Raises:
        ConfigurationError: it isn't an http(s) URL of a host alone, or it carries a password, which would
            show in logs and errors.
    """
    if "@" in unicodedata.normalize("NFKC", unquote(str(value))):
        raise ConfigurationError(
            f"{name} holds a user name or password (before its @). Give the bare base URL there, such as "
            "http://127.0.0.1:5273, and the secret as api_key or in headers."
        )
    try:
        url = urlsplit(value.strip())
        valid = url.scheme in ("http", "https") and bool(url.hostname) and not (url.query or url.fragment)
        valid = valid and (url.port is None or 0 < url.port < 65536) and bool(_HOST.fullmatch(url.netloc))
        valid = valid and url.path.rstrip("/") in _PASTED_PATHS
        (url.hostname or "").encode("idna")  # as the resolver will; a label may be empty or too long
    except (ValueError, AttributeError, TypeError):
        valid = False
    if not valid:
        raise ConfigurationError(
            f"{name}={_shown(value)!r} is not a service address. "
            "Give the base URL with its port, such as http://127.0.0.1:5273 (no path, no query)."
        )
    return f"{url.scheme}://{url.netloc}"


def _shown(address: object) -> object:
    """Return an address without what may be a secret: a query or a fragment."""
    return re.sub(r"([?#]).+", r"\1…", address, flags=re.DOTALL) if isinstance(address, str) else address


def check_model_name(value: object) -> None:
    """Raise ConfigurationError for what can't be a model's alias or id."""
    if not isinstance(value, str) or not value.strip():
        raise ConfigurationError(
            f"The model {value!r} is no name. Give an alias or an id as text; list_models() shows them."
        )


def _check_text(value: str, name: str) -> str:
    check_kind(value, name, (str,), "it as text")
    return value.strip()


def _choose(value: str, name: str, allowed: tuple[str, ...]) -> str:
    for word in allowed:
        if str(value).strip().lower() == word.lower():
            return word
    raise ConfigurationError(f"{name}={value!r} is not allowed. Choose one of: {', '.join(allowed)}.")


def check_log_level(value: str, name: str = "log_level") -> str:
    """Return a level name of the logging module. Raises ConfigurationError for any other word."""
    return _choose(value, name, ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"))


def check_catalog(value: str, name: str = "catalog") -> str:
    """Return "local" or "public". Raises ConfigurationError for any other word."""
    return _choose(value, name, ("local", "public"))


def _from_env(variable: str, check: Callable[[str, str], object], default: object) -> Any:
    """Return a field that reads one variable where no value is given.

    A variable that is empty counts as not set, as shells make it hard to tell the two apart.
    """

    def read() -> object:
        value = os.environ.get(variable, "").strip()
        return check(value, variable) if value else default

    return msgspec.field(default_factory=read)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What to connect to and how. What isn't given is read from the environment.

    Attributes:
        endpoint: FOUNDRY_ENDPOINT, base URL of a running service; None lets the engine find or start one.
        api_key: FOUNDRY_API_KEY, sent as a bearer token to the endpoint; never shown and never pickled: where
            settings are unpickled, that environment's key counts.
        model: FOUNDRY_MODEL, alias or id; "phi-4-mini" when nobody named one.
        model_is_explicit: whether somebody did. If so it is used or refused; if not, the client may take
            the loaded chat model instead.
        timeout: FOUNDRY_TIMEOUT, seconds for one request with all its attempts.
        retries: FOUNDRY_RETRIES, attempts after the first.
        log_level: FOUNDRY_LOG_LEVEL, a name of the logging module.
        catalog: FOUNDRY_LAB_CATALOG, "local" or "public" (adds Microsoft's online catalog).

    Raises:
        ConfigurationError: a bad value; the message names the variable, the value and what is allowed.
    """

    endpoint: str | None = _from_env("FOUNDRY_ENDPOINT", check_endpoint, None)
    api_key: str | None = _from_env("FOUNDRY_API_KEY", _check_text, None)
    model: str | None = _from_env("FOUNDRY_MODEL", _check_text, None)
    timeout: float = _from_env("FOUNDRY_TIMEOUT", check_timeout, 30.0)
    retries: int = _from_env("FOUNDRY_RETRIES", check_retries, DEFAULT_RETRIES)
    log_level: str = _from_env("FOUNDRY_LOG_LEVEL", check_log_level, "INFO")
    catalog: str = _from_env("FOUNDRY_LAB_CATALOG", check_catalog, "local")
    model_is_explicit: bool = False

    def __post_init__(self) -> None:
        model = _check_text(self.model or "", "model")
        force_setattr(self, "model", model or DEFAULT_MODEL)
        force_setattr(self, "model_is_explicit", bool(model))
        force_setattr(self, "endpoint", check_endpoint(self.endpoint) if self.endpoint else None)
        force_setattr(self, "api_key", _check_text(self.api_key, "api_key") if self.api_key else None)
        force_setattr(self, "timeout", check_timeout(self.timeout))
        force_setattr(self, "retries", check_retries(self.retries))
        force_setattr(self, "log_level", check_log_level(self.log_level))
        force_setattr(self, "catalog", check_catalog(self.catalog))

    def replace(self, **changes: object) -> Settings:
        """Return a copy with the changes that aren't None. Raises ConfigurationError as the constructor."""
        given = {name: value for name, value in changes.items() if value is not None}
        if not self.model_is_explicit:
            given.setdefault("model", "")
        return msgspec.structs.replace(self, **given)

    def __deepcopy__(self, memo: object) -> Settings:
        return self  # nothing in it changes; and a pickle would lose the key

    def __reduce__(self) -> tuple[Callable[[], Settings], tuple[()]]:
        kept = {name: getattr(self, name) for name in self.__struct_fields__ if name != "api_key"}
        kept["model"] = self.model if self.model_is_explicit else ""
        return partial(Settings, **kept), ()

    def __repr__(self) -> str:
        return msgspec.Struct.__repr__(self.replace(api_key=self.api_key and "***"))
