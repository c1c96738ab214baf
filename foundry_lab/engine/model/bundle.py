"""A prepared model as one file, to carry to computers without a network."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

from foundry_lab._ground.files import patiently
from foundry_lab.engine import spec
from foundry_lab.engine.model import manifest as manifests
from foundry_lab.engine.model.manifest import MANIFEST, Manifest
from foundry_lab.engine.model.prepare import install
from foundry_lab.engine.model.storage import disk_errors, exclusive, require_space, workspace
from foundry_lab.engine.paths import model_dir
from foundry_lab.engine.spec import PreparedModel
from foundry_lab.errors import EngineError

FOLDER = f"{spec.NAME}-{spec.VERSION}"
DEFAULT_NAME = f"{spec.ALIAS}.tar"
MAX_SIZE = 4 * spec.MODEL_SIZE
MAX_MANIFEST_SIZE = 100_000
"""Bytes; larger archives and manifests aren't ours."""


def export_model(file: str | Path) -> Path:
    """Write the prepared model as a tar archive and return its path.

    Args:
        file: the archive, or an existing directory to put `smollm2-135m.tar` in. No file is replaced.

    Raises:
        EngineError: there is no whole model, the file exists, or it can't be written.
    """
    target = Path(file).expanduser().absolute()
    if target.is_dir():
        target /= DEFAULT_NAME
    if target.exists():
        raise EngineError(f"{target} exists already. Give another name, or delete it first.")
    if not target.parent.is_dir():
        raise EngineError(
            f"There is no directory {target.parent} to write {target.name} to. Create it first."
        )
    with exclusive():
        if not model_dir().exists():
            raise EngineError(
                "There is no model to export yet. Prepare it first: `foundry-lab model prepare`."
            )
        manifest = manifests.read(model_dir())
        problem = manifests.problem_of(model_dir(), manifest, full=True)
        if manifest is None or problem:
            raise EngineError(
                f"The model can't be exported: {problem}. Prepare it anew: `foundry-lab model prepare`."
            )
        require_space(manifest.size_bytes, "The archive", target.parent)
        try:
            _write(target)
        except OSError as error:
            raise EngineError(
                f"{target} can't be written ({error.strerror or error}); nothing was left there. Choose a "
                f"place you can write to, with {manifest.size_bytes / 1e6:,.0f} MB free."
            ) from error
    return target


def import_model(file: str | Path) -> PreparedModel:
    """Put an exported model in place, once checked against its manifest; it replaces the one that is there.

    Raises:
        EngineError: the file is missing, damaged, or holds anything an export doesn't; nothing was changed.
    """
    source = Path(file).expanduser().absolute()
    if not source.is_file():
        raise EngineError(f"{source} is not a file. Give the archive that `foundry-lab model export` wrote.")
    with exclusive(), disk_errors(), workspace() as work:
        try:
            if source.stat().st_size > MAX_SIZE:
                raise ValueError("it is too large")
            with tarfile.open(source, "r:") as archive:
                manifest = _extract(archive, work)
        except (tarfile.TarError, EOFError, ValueError) as error:
            raise EngineError(
                f"{source} is not a model exported by the lab, or was cut short ({error}). Nothing was "
                "changed. Copy the file again, or export it again with `foundry-lab model export FILE`."
            ) from error
        built = work / FOLDER
        if problem := manifests.problem_of(built, manifest, full=True):
            raise EngineError(
                f"The model in {source} can't be used: {problem}. Nothing was changed. Export it again, with "
                "the version of foundry-lab that is installed here."
            )
        return install(built, work)


def _write(target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as work:
        partial = Path(work) / target.name
        with tarfile.open(partial, "w:", format=tarfile.PAX_FORMAT) as archive:
            for name in (MANIFEST, *spec.MODEL_FILES):
                archive.add(model_dir() / name, f"{FOLDER}/{name}", filter=_anonymous)
        patiently(partial.rename, target)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who exported it."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o644
    return member


def _extract(archive: tarfile.TarFile, work: Path) -> Manifest:
    """Extract the manifest, then exactly the files it lists; anything else in the archive is refused.

    Raises:
        ValueError: an archive that `_write` can't have written.
    """
    if hasattr(tarfile, "data_filter"):  # Python 3.11.4 and later; `_check_member` looks at the same things
        archive.extraction_filter = tarfile.data_filter
    first = archive.next()
    if first is None or first.name != f"{FOLDER}/{MANIFEST}":
        raise ValueError(f"it doesn't start with {FOLDER}/{MANIFEST}")
    _check_member(first, MAX_MANIFEST_SIZE)
    archive.extract(first, work)
    manifest = manifests.decode((work / FOLDER / MANIFEST).read_bytes())
    if not 0 < manifest.size_bytes < MAX_SIZE:
        raise ValueError(f"its manifest speaks of {manifest.size_bytes:,} bytes")
    require_space(manifest.size_bytes, "The imported model")
    expected = {
        f"{FOLDER}/{name}": manifest.files[name].size for name in spec.MODEL_FILES if name in manifest.files
    }
    while member := archive.next():
        size = expected.pop(member.name, None)
        if size is None:
            raise ValueError(f"{member.name!r} doesn't belong in it")
        _check_member(member, size)
        archive.extract(member, work)
    return manifest


def _check_member(member: tarfile.TarInfo, size: int) -> None:
    if not member.isreg() or member.issparse():
        raise ValueError(f"{member.name!r} is not a plain file")
    if member.size > size:
        raise ValueError(f"{member.name!r} has {member.size:,} bytes, more than {size:,}")
