"""Whom to trust over https: the system's authorities, or those of a file, in both clients alike."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import aiohttp
import truststore

from foundry_lab.errors import ConfigurationError


def tls_context(ca_file: str | os.PathLike[str] | None) -> ssl.SSLContext:
    """Return a context that trusts the authorities of a PEM file, or of SSL_CERT_FILE, or the system's.

    Raises:
        ConfigurationError: the file can't be read as certificates.
    """
    try:
        if ca_file is not None:
            return ssl.create_default_context(cafile=Path(ca_file).expanduser())
        if os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
            return ssl.create_default_context()  # reads both variables; the system's store knows neither
    except OSError as error:
        raise ConfigurationError(
            f"ca_file={os.fspath(ca_file or '')!r} can't be used ({error}). Give a PEM file with the "
            "certificate of the authority that signed the server's."
        ) from None
    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def refused(endpoint: str, error: aiohttp.ClientConnectorError) -> ConfigurationError | None:
    """Return the error for a TLS connection that can't be made, or None if it is another kind of fault."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return ConfigurationError(
            f"The certificate of {endpoint} isn't trusted ({error.certificate_error}). If your organisation "
            "signs its own, name its authority's file: ca_file=… on the client, or SSL_CERT_FILE."
        )
    if isinstance(error, aiohttp.ClientConnectorSSLError):
        return ConfigurationError(
            f"What answers at {endpoint} doesn't speak TLS ({error.os_error.reason or error.os_error}). "
            f"Foundry Local itself speaks plain HTTP: try {endpoint.replace('https:', 'http:', 1)}."
        )
    return None
