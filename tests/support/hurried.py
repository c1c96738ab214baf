"""The lessons' measurements in the tests: fewer, shorter, and once, where a reader repeats for the spread."""

from __future__ import annotations

import re

from nbformat import NotebookNode

PARAMETERS = {"CALLS": 4, "LONG_ANSWER": 200, "PROMPTS": 10, "REQUESTS": 4, "ROUNDS": 1, "TOKENS": 8}


def hurry(cell: NotebookNode) -> None:
    """Set a notebook's parameters as a reader in a hurry does; only one of its cells has any."""
    if "parameters" in cell.metadata.get("tags", []):
        for name, value in PARAMETERS.items():
            cell.source = re.sub(rf"^{name} = \d+", f"{name} = {value}", cell.source, flags=re.MULTILINE)
