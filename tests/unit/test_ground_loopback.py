"""Our own listeners answer programs of this machine and refuse web pages."""

from __future__ import annotations

import pytest
import requests

from foundry_lab._ground.loopback import foreign
from foundry_lab.metrics import Metrics


@pytest.mark.parametrize("host", ["127.0.0.1:5273", "localhost:5273", "LocalHost:5273", "[::1]:5273"])
@pytest.mark.parametrize("origin", [None, "http://127.0.0.1:5273", "http://localhost:5273"])
def test_programs_of_this_machine_are_let_in(host: str, origin: str | None) -> None:
    assert foreign(host, origin, 5273) is None


@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example:5273",
        "127.0.0.1",
        "127.0.0.1:80",
        "127.0.0.1.evil.example:5273",
        "0.0.0.0:5273",
    ],
)
def test_another_name_in_host_is_foreign(host: str | None) -> None:
    """A name of the attacker's that leads to 127.0.0.1 would let his page read the answers."""
    assert foreign(host, None, 5273)


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "null",
        "https://evil.example",
        "http://localhost:8888",
        "https://127.0.0.1:5273",
        "http://evil.example:5273",
    ],
)
def test_a_web_page_is_foreign(origin: str) -> None:
    assert foreign("127.0.0.1:5273", origin, 5273)


@pytest.mark.parametrize(
    ("site", "let_in"), [("none", True), ("same-origin", True), ("same-site", False), ("cross-site", False)]
)
def test_a_pages_images_and_links_carry_no_origin_but_tell_where_they_stand(site: str, let_in: bool) -> None:
    assert (foreign("127.0.0.1:5273", None, 5273, site) is None) is let_in


def test_port_80_goes_without_saying() -> None:
    assert foreign("localhost", "http://localhost", 80) is None


def test_what_a_page_sends_is_quoted_cut_and_without_control_characters() -> None:
    reason = foreign("127.0.0.1:1", "http://\x1b[2J" + "x" * 10_000, 1)
    assert reason is not None and len(reason) < 200 and "\x1b" not in reason


PAGES = [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}]


@pytest.mark.parametrize("headers", PAGES)
def test_metrics_are_for_programs_too(headers: dict[str, str]) -> None:
    """They tell models, numbers of tokens and errors."""
    with Metrics().serve() as server:
        assert "foundry_lab" in requests.get(server.url, timeout=30).text
        answer = requests.get(server.url, headers=headers, timeout=30)
    assert answer.status_code == 403
    assert answer.json()["error"].startswith("Refused: it ")
