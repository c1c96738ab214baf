"""A plugin of pytest: the table that the fault matrix prints at its end.

The rows come with the tests' reports, so it doesn't matter which of pytest-xdist's workers ran them.
"""

from __future__ import annotations

import pytest

ROW = "row of the fault matrix"
"""The property of a test that holds fault, operation, client, outcome, seconds."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    rows = [row for report in reports for name, row in report.user_properties if name == ROW]
    if not rows:
        return
    cells: dict[str, dict[tuple[str, str], str]] = {}
    for fault, operation, client, outcome, seconds in rows:
        cells.setdefault(fault, {})[operation, client] = f"{outcome} {seconds:.2f}s"
    columns = sorted({(row[1], row[2]) for row in rows}, key=lambda column: (column[1], column[0]))
    write = terminalreporter.write_line
    write("")
    write(f"fault matrix: {len(rows)} cells (outcome and seconds)")
    write(f"{'':24}" + "".join(f"{client + ' ' + operation:31}" for operation, client in columns))
    for fault, row in cells.items():
        write(f"{fault:24}" + "".join(f"{row.get(column, '-'):31}" for column in columns))
