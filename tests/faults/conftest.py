"""The real service behind a fault proxy, and the table that the matrix prints at its end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from foundry_lab import engine
from foundry_lab.faults.proxy import FaultProxy

Row = tuple[str, str, str, str, float]
"""Fault, operation, client, outcome, seconds."""

_rows: list[Row] = []


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """Base URL of one service for the whole session; left running if it ran before."""
    before = engine.service_status()
    yield engine.ensure_service(progress=False)
    if before is None:
        engine.stop_service()


@pytest.fixture(scope="module")
def proxy(endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(endpoint, seed=1) as running:
        yield running


@pytest.fixture
def table() -> list[Row]:
    """Rows for the table."""
    return _rows


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _rows:
        return
    cells: dict[str, dict[tuple[str, str], str]] = {}
    for fault, operation, client, outcome, seconds in _rows:
        cells.setdefault(fault, {})[operation, client] = f"{outcome} {seconds:.2f}s"
    columns = sorted({(row[1], row[2]) for row in _rows}, key=lambda column: (column[1], column[0]))
    write = terminalreporter.write_line
    write("")
    write(f"fault matrix: {len(_rows)} cells (outcome and seconds)")
    write(f"{'':24}" + "".join(f"{client + ' ' + operation:31}" for operation, client in columns))
    for fault, row in cells.items():
        write(f"{fault:24}" + "".join(f"{row.get(column, '-'):31}" for column in columns))
