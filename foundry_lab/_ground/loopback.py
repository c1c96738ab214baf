"""Who may talk to our own listeners: programs of this machine, and no web page that a browser has open.

A page of any site can send requests to 127.0.0.1, and with a name that leads there (DNS rebinding) read the
answers. The browser gives it away: by the name in Host, by Origin, by Sec-Fetch-Site.
"""

import json
from collections.abc import Iterable
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

NAMES = ("127.0.0.1", "localhost", "[::1]")


def foreign(host: str | None, origin: str | None, port: int, fetch_site: str | None = None) -> str | None:
    """Say why a request comes from a web page and not from a program of this machine; None if it doesn't.

    Args:
        host: its Host header, None if there is none; so with the others.
        origin: its Origin header.
        port: that we listen at.
        fetch_site: its Sec-Fetch-Site header, which tells of a page's images and links too.
    """
    ours = [f"{name}:{port}" for name in NAMES]
    if port == 80:
        ours += NAMES
    if host is None or host.lower() not in ours:
        return f"it was sent to {host!r:.80}, and this is {ours[0]}"
    if origin is not None and origin.lower().removeprefix("http://") not in ours:
        return f"it comes from the web page {origin!r:.80}"
    if fetch_site not in (None, "same-origin", "none"):
        return "it comes from a web page of another origin"
    return None


def refuse_foreign_wsgi(app: WSGIApplication) -> WSGIApplication:
    """Return a WSGI application that answers 403 to what is `foreign`."""

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        host, origin, site = (environ.get(f"HTTP_{name}") for name in ("HOST", "ORIGIN", "SEC_FETCH_SITE"))
        if reason := foreign(host, origin, int(environ["SERVER_PORT"]), site):
            start_response("403 Forbidden", [("Content-Type", "application/json")])
            return [json.dumps({"error": f"Refused: {reason}. Ask from a program."}).encode()]
        return app(environ, start_response)

    return guarded
