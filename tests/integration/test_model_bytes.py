"""The recipe makes the same bytes everywhere, which is how an imported model is known."""

from __future__ import annotations

from pathlib import Path

from foundry_lab.engine import paths, spec
from foundry_lab.engine.model import bundle, prepare


def test_the_prepared_model_has_the_bytes_that_are_pinned(lab_home: Path) -> None:
    prepared = prepare.read_manifest(paths.model_dir())
    assert prepared is not None
    assert {name: record.sha256 for name, record in prepared.files.items()} == spec.SHA256


def test_an_export_of_it_is_imported_without_a_question(own_home: Path, tmp_path: Path) -> None:
    assert bundle.import_model(bundle.export_model(tmp_path / "model.tar")).problem is None
