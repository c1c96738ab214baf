"""What to say when no answer comes, or not the whole of one: aiohttp's errors as errors of the tree."""

import aiohttp

from foundry_lab import errors
from foundry_lab.protocol.failure import readable

_GONE = (
    "The service that was found there has ended. Start it again with foundry_lab.ensure_service() in "
    "Python or `foundry-lab serve` in a terminal, and call again: this client finds it."
)
_NOT_THERE = (
    "Is the service running there? `foundry-lab status` shows the lab's own, `foundry-lab serve` starts it; "
    "FOUNDRY_ENDPOINT must name the right port."
)


def no_answer(error: Exception, endpoint: str, connect_s: float, *, found: bool) -> errors.FoundryError:
    """Return the error for a request that got no answer.

    Args:
        connect_s: how long connecting was allowed to take, in seconds.
        found: nobody gave the address, as in `Target`.
    """
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return errors.RequestTimeoutError(
            f"{endpoint} didn't accept a connection within {connect_s:g} s. {_NOT_THERE}",
            phase="connect",
            limit_s=connect_s,
        )
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return errors.ConfigurationError(
            f"The certificate of {endpoint} isn't trusted ({error.certificate_error}). If your organisation "
            "signs its own, name its authority's file: ca_file=… on the client, or SSL_CERT_FILE."
        )
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return errors.ConfigurationError(
            f"What answers at {endpoint} doesn't speak TLS ({error.os_error.reason or error.os_error}). "
            f"Foundry Local itself speaks plain HTTP: try {endpoint.replace('https:', 'http:', 1)}."
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        advice = _GONE if found else _NOT_THERE
        reason = error.os_error.strerror or error.os_error
        return errors.ServiceUnavailableError(f"Nobody answers at {endpoint} ({reason}). {advice}")
    if isinstance(error, aiohttp.ClientResponseError):
        return _not_http(endpoint, error.message)
    return errors.ServiceUnavailableError(
        f"{endpoint} closed the connection without an answer ({error}). The service may have been stopped "
        "or be restarting: try again, and look at `foundry-lab status` if it stays."
    )


def another_answers(endpoint: str) -> errors.ServiceUnavailableError:
    """Return the error for a found service whose place another process has taken."""
    return errors.ServiceUnavailableError(
        f"Another process listens at {endpoint}, and nothing was sent to it. {_GONE}"
    )


def broken_body(response: aiohttp.ClientResponse, error: Exception) -> errors.FoundryError:
    """Return the error for a body that can't be read to its end."""
    endpoint = str(response.url.origin())
    if isinstance(error.__cause__, aiohttp.http_exceptions.ContentEncodingError):
        return _not_http(endpoint, error)
    return errors.StreamInterruptedError(
        f"The connection to {endpoint} broke in mid-answer ({readable(str(error))}). The service may have "
        "been stopped: see `foundry-lab status`, then ask again."
    )


def _not_http(endpoint: str, error: object) -> errors.ResponseFormatError:
    return errors.ResponseFormatError(
        f"What answers at {endpoint} doesn't speak HTTP as Foundry Local does ({readable(str(error))}). "
        "Check the address and port."
    )
