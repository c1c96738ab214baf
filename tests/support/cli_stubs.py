"""A stub engine and a tiny workbook for the tests of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook


def write_notebook(path: Path, *cells: str) -> Path:
    """Write a notebook; a cell that starts with # and a space is a heading."""
    path.parent.mkdir(parents=True, exist_ok=True)
    made = [new_markdown_cell(cell) if cell.startswith("# ") else new_code_cell(cell) for cell in cells]
    nbformat.write(new_notebook(cells=made), path)
    return path


def outputs(path: Path) -> str:
    """Return everything a notebook's cells printed or returned, as one text."""
    texts = []
    for cell in nbformat.read(path, as_version=4).cells:
        for output in cell.get("outputs", []):
            texts.append(output.get("text") or output.get("data", {}).get("text/plain", "") or str(output))
    return "".join(texts)


class StubEngine:
    """Stands in for foundry_lab.engine; records what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.state: Any = None  # of a running service
        self.models: list[Any] = []
        self.error: Exception | None = None

    def _record(self, call: str) -> None:
        self.calls.append(call)
        if self.error:
            raise self.error

    def ensure_service(self, settings: Any = None, *, progress: bool = True) -> str:
        self._record("ensure")
        return "http://127.0.0.1:1"

    def service_status(self) -> Any:
        return self.state

    def stop_service(self, timeout: float = 15.0) -> bool:
        self._record("stop")
        return self.state is not None

    def serve(self, *, port: int = 0, public_catalog: bool = False, on_ready: Any = None) -> None:
        self._record(f"serve port={port} public={public_catalog}")
        on_ready(self.state)

    def prepare_model(self, *, progress: bool = True, force: bool = False) -> Any:
        self._record(f"prepare force={force}")
        return self.models[0]

    def prepared_models(self, *, full: bool = False) -> list[Any]:
        return self.models

    def export_model(self, file: Path) -> Path:
        self._record(f"export {file.name}")
        file.write_bytes(b"x" * 2**20)
        return file

    def import_model(self, file: Path, *, trust: bool = False) -> Any:
        self._record(f"import {file.name}{' trust' if trust else ''}")
        return self.models[0]

    def remove_model(self) -> bool:
        self._record("remove")
        return bool(self.models)
