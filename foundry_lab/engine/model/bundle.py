"""A prepared model as one file, to carry to computers without a network."""

import os
import shutil
import tarfile
import tempfile
from pathlib import Path

from foundry_lab._ground.files import as_path, patiently
from foundry_lab.engine import spec
from foundry_lab.engine.model.prepare import MANIFEST, install, prepared_models, problem_of, refuse_shared
from foundry_lab.engine.paths import model_dir
from foundry_lab.engine.private import exclusive, sha256_of, workspace
from foundry_lab.engine.spec import PreparedModel
from foundry_lab.errors import EngineError

FOLDER = f"{spec.NAME}-{spec.VERSION}"
MAX_SIZE = 4 * spec.MODEL_SIZE
MAX_MANIFEST_SIZE = 100_000
"""Bytes; larger archives and manifests aren't ours."""


def export_model(file: str | Path) -> Path:
    """Write the prepared model as a tar archive and return its path.

    Args:
        file: the archive, or an existing directory to put `smollm2-135m.tar` in. No file is replaced.

    Raises:
        EngineError: there is no whole model, the file exists, or it can't be written.
        ConfigurationError: no file can have that name.
    """
    target = as_path(file, "file").absolute()
    with exclusive():
        problems = [model.problem for model in prepared_models(full=True)] or ["it isn't prepared yet"]
        if problems[0]:
            raise EngineError(
                f"The model can't be exported: {problems[0]}. Prepare it: `foundry-lab model prepare`."
            )
        try:
            if target.is_dir():
                target /= f"{spec.ALIAS}.tar"
            if target.exists():
                raise EngineError(f"{target} exists already. Give another name, or delete it first.")
            _write(target)
        except OSError as error:
            raise EngineError(
                f"{target} can't be written ({error.strerror or error}); nothing was left there. Choose a "
                f"place you can write to, with {spec.MODEL_SIZE / 1e6:,.0f} MB free."
            ) from error
    return target


def import_model(file: str | Path, *, trust: bool = False) -> PreparedModel:
    """Put an exported model in place; it replaces the one that is there.

    Its bytes must be those that this version's recipe makes. No configuration is taken over: it is written
    anew, as it can name libraries to load.

    Args:
        trust: take another recipe's model as well, if it is whole by its own manifest.

    Raises:
        EngineError: the file is missing, damaged, or holds anything an export doesn't; nothing was changed.
        ConfigurationError: no file can have that name.
    """
    source = as_path(file, "file").absolute()
    if not (os.access(source, os.R_OK) and source.is_file()):
        raise EngineError(
            f"{source} is not a file you can read. Give the archive that `foundry-lab model export` wrote."
        )
    refuse_shared()
    with exclusive(), workspace() as work:
        built = work / FOLDER
        built.mkdir()
        try:
            if source.stat().st_size > MAX_SIZE:
                raise ValueError("it is too large")
            with tarfile.open(source, "r:") as archive:
                _extract(archive, built)
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as error:
            raise EngineError(
                f"{source} is not a model exported by the lab, or was cut short ({error}). Nothing was "
                "changed. Copy the file again, or export it again with `foundry-lab model export FILE`."
            ) from error
        _check(source, built, trust)
        return install(built, work)


def _check(source: Path, built: Path, trust: bool) -> None:
    """Raise EngineError if what was extracted isn't whole, or isn't ours and nobody trusts it."""
    if problem := problem_of(built, full=True, any_recipe=trust):
        raise EngineError(
            f"The model in {source} can't be used: {problem}. Nothing was changed. Export it again, with the "
            "version of foundry-lab that is installed here."
        )
    other = [name for name, expected in spec.SHA256.items() if sha256_of(built / name) != expected]
    if other and not trust:
        raise EngineError(
            f"{source} holds another model than this version of foundry-lab makes: {', '.join(other)} differ."
            " Nothing was changed. A model from a stranger can say anything and crash the service. If you "
            f"know who made this one: foundry-lab model import --trust {source}"
        )


def _write(target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as work:
        partial = Path(work) / target.name
        with tarfile.open(partial, "w:", format=tarfile.PAX_FORMAT) as archive:
            for name in (MANIFEST, *spec.MODEL_FILES):
                member = tarfile.TarInfo(f"{FOLDER}/{name}")  # which doesn't say who wrote it
                member.size = (model_dir() / name).stat().st_size
                with (model_dir() / name).open("rb") as file:
                    archive.addfile(member, file)
        patiently(partial.rename, target)


def _extract(archive: tarfile.TarFile, directory: Path) -> None:
    """Extract a model's files, each of which must be there once; anything else in the archive is refused.

    Only contents are taken: the archive's owners, permissions and times are left behind.

    Raises:
        ValueError: an archive that `_write` can't have written.
    """
    missing = {f"{FOLDER}/{name}": name for name in (MANIFEST, *spec.MODEL_FILES)}
    while member := archive.next():
        name = missing.pop(member.name, None)
        if name is None:
            raise ValueError(f"{member.name!r} doesn't belong in it")
        if not member.isreg() or member.issparse():
            raise ValueError(f"{member.name!r} is not a plain file")
        if name == MANIFEST and member.size > MAX_MANIFEST_SIZE:
            raise ValueError(f"{name} has {member.size:,} bytes, more than {MAX_MANIFEST_SIZE:,}")
        content = archive.extractfile(member)
        assert content is not None, "a plain file has content"
        with content, (directory / name).open("xb") as file:
            shutil.copyfileobj(content, file)
    if missing:
        raise ValueError(f"{', '.join(missing.values())} can't be found in it")
