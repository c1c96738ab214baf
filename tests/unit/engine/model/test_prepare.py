"""Preparing a tiny model for real: full disks, killed processes, damaged caches, two at once."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_model

from foundry_lab.engine import paths, private, spec
from foundry_lab.engine.model import bundle, convert, prepare
from foundry_lab.engine.service import runtime
from foundry_lab.errors import ConfigurationError, EngineError

SUPPORT = Path(tiny_model.__file__).parent

CHILD = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
from foundry_lab.engine import private, spec
from foundry_lab.engine.model import convert, prepare
spec.GGUF_SHA256 = private.sha256_of(__import__("pathlib").Path(os.environ["FOUNDRY_LAB_GGUF"]))
add, written = convert.Decoder.add, []
def die(self, name, array):
    written.append(name)
    if len(written) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return add(self, name, array)
if sys.argv[2] == "die":
    convert.Decoder.add = die
converted = []
convert_model = prepare._convert
prepare._convert = lambda *args, **options: (converted.append(1), convert_model(*args, **options))
model = prepare.prepare_model(progress=False)
print(len(converted), model.problem)
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    return tiny_model.make_lab(tmp_path, monkeypatch)


def raising(error):
    raise error


def start_child(mode):
    command = [sys.executable, "-c", CHILD, str(SUPPORT), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def fail_after(count, error):
    """A `Decoder.add` that fails as the operating system does when the disk is full."""
    add, written = convert.Decoder.add, []

    def failing(self, name, array):
        written.append(name)
        if len(written) > count:
            raise error
        return add(self, name, array)

    return failing


def test_prepared_where_foundry_local_looks_and_found_again(lab, monkeypatch):
    assert prepare.find_prepared() is None and prepare.prepared_models() == []
    model = prepare.prepare_model(progress=False)
    assert model.path == lab / "models" / "HuggingFaceTB" / "smollm2-135m-instruct-generic-cpu-1"
    assert model.model_id == "smollm2-135m-instruct-generic-cpu:1"
    assert {file.name for file in model.path.iterdir()} == {*spec.MODEL_FILES, spec.CONFIG, "manifest.json"}
    assert model.size_bytes == sum((model.path / name).stat().st_size for name in spec.MODEL_FILES)
    assert not tiny_model.workspaces(lab)
    assert prepare.find_prepared() == model
    assert prepare.prepared_models(full=True) == [model]
    monkeypatch.setenv("FOUNDRY_LAB_GGUF", "/nowhere")
    assert prepare.prepare_model(progress=False) == model


def test_force_prepares_anew(lab):
    model = prepare.prepare_model(progress=False)
    (model.path / "of-old").touch()
    assert prepare.prepare_model(progress=False, force=True) == model
    assert not (model.path / "of-old").exists()


def test_the_conversion_shows_its_progress(lab, capsys):
    prepare.prepare_model()
    assert "Converting the model: 100%" in capsys.readouterr().err


def test_little_space_is_noticed_before_anything_is_written(lab, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1_000_000))
    with pytest.raises(EngineError, match=r"110 MB, and only 1 MB are free.*FOUNDRY_LAB_HOME"):
        prepare.prepare_model(progress=False)
    assert not paths.model_dir().exists()


def test_disk_full_in_mid_write_leaves_nothing(lab, monkeypatch):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as patch:
        patch.setattr(convert.Decoder, "add", fail_after(5, full))
        with pytest.raises(EngineError, match=r"disk is too full.*Free some space"):
            prepare.prepare_model(progress=False)
    assert not tiny_model.workspaces(lab)
    assert prepare.prepared_models() == []
    assert prepare.prepare_model(progress=False).problem is None


def test_disk_full_while_preparing_anew_keeps_the_old_model(lab, monkeypatch):
    model = prepare.prepare_model(progress=False)
    monkeypatch.setattr(convert.Decoder, "add", fail_after(5, OSError(errno.ENOSPC, "full")))
    with pytest.raises(EngineError):
        prepare.prepare_model(progress=False, force=True)
    assert prepare.find_prepared() == model


def test_failure_to_put_the_new_model_in_place_keeps_the_old_one(lab, monkeypatch):
    model = prepare.prepare_model(progress=False)
    rename = Path.rename

    def fail_to_install(self, target):
        if self.name == "model":
            raise PermissionError(errno.EACCES, "in use", str(target))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_to_install)
    with pytest.raises(EngineError, match=r"in use.*foundry-lab stop"):
        prepare.prepare_model(progress=False, force=True)
    assert prepare.find_prepared() == model


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no SIGKILL")
def test_killed_preparation_is_taken_for_nothing_and_cleaned_up(lab):
    child = start_child("die")
    assert child.wait(60) == -signal.SIGKILL
    child.communicate()
    assert tiny_model.workspaces(lab)
    assert prepare.find_prepared() is None
    assert prepare.prepare_model(progress=False).problem is None
    assert not tiny_model.workspaces(lab)


def test_two_processes_prepare_it_once(lab):
    children = [start_child("live") for _ in range(2)]
    outputs = [child.communicate(timeout=120)[0].split() for child in children]
    assert sorted(outputs) == [["0", "None"], ["1", "None"]]


def damage_size(directory):
    with (directory / "model.onnx.data").open("rb+") as file:
        file.truncate(1000)


def damage_bytes(directory):
    with (directory / "model.onnx.data").open("rb+") as file:
        file.seek(5000)
        file.write(b"damage")
    os.utime(directory / "model.onnx.data", (1, 1))


def damage_missing(directory):
    (directory / "tokenizer.json").unlink()


def damage_manifest(directory):
    (directory / "manifest.json").write_text('{"model_id": ')


def damage_recipe(directory):
    text = (directory / "manifest.json").read_text()
    (directory / "manifest.json").write_text(text.replace(f'"recipe": {spec.RECIPE}', '"recipe": 0'))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (damage_size, "model.onnx.data has 1,000 bytes instead of"),
        (damage_bytes, "model.onnx.data is damaged"),
        (damage_missing, "tokenizer.json can't be read"),
        (damage_manifest, "manifest.json is missing or unreadable"),
        (damage_recipe, "another version of foundry-lab"),
    ],
)
def test_damage_is_noticed_named_and_repaired(lab, damage, problem):
    model = prepare.prepare_model(progress=False)
    damage(model.path)
    assert prepare.find_prepared() is None
    [listed] = prepare.prepared_models()
    assert problem in (listed.problem or "")
    assert prepare.prepare_model(progress=False) == model


def test_damage_that_keeps_size_and_time_is_noticed_by_the_full_check(lab):
    model = prepare.prepare_model(progress=False)
    times = (model.path / "model.onnx.data").stat()
    damage_bytes(model.path)
    os.utime(model.path / "model.onnx.data", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert prepare.find_prepared() == model
    assert "damaged" in (prepare.prepared_models(full=True)[0].problem or "")


def test_copied_cache_with_new_times_is_whole(lab, tmp_path, monkeypatch):
    prepare.prepare_model(progress=False)
    shutil.copytree(lab, tmp_path / "copy", copy_function=shutil.copy)
    for file in (tmp_path / "copy").rglob("model*"):
        os.utime(file, (1, 1))
    monkeypatch.setenv("FOUNDRY_LAB_HOME", str(tmp_path / "copy"))
    assert prepare.find_prepared() is not None


def test_removed_with_its_downloads(lab):
    prepare.prepare_model(progress=False)
    paths.downloads().mkdir()
    (paths.downloads() / spec.GGUF_NAME).write_bytes(b"left over")
    assert prepare.remove_model() is True
    assert prepare.prepared_models() == [] and not any(paths.downloads().iterdir())
    assert not tiny_model.workspaces(lab)
    assert prepare.remove_model() is False


def test_downloads_are_removed_from_a_full_disk_too(lab, monkeypatch):
    """It is what makes room: a preparation that was cut short leaves the largest of them."""
    prepare.prepare_model(progress=False)
    shutil.rmtree(paths.model_dir())
    paths.downloads().mkdir()
    (paths.downloads() / spec.GGUF_NAME).write_bytes(b"left over")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr("tempfile.mkdtemp", lambda *args, **options: raising(full))
    assert prepare.remove_model() is False
    assert not any(paths.downloads().iterdir())


def test_home_that_is_a_file_is_an_error_naming_it(lab):
    lab.write_text("in the way")
    with pytest.raises(EngineError, match=f"{lab}.*FOUNDRY_LAB_HOME"):
        prepare.prepare_model(progress=False)
    assert lab.read_text() == "in the way"


def test_lock_held_too_long_is_an_error(lab, monkeypatch, caplog):
    import filelock

    monkeypatch.setattr(private, "LOCK_TIMEOUT_S", 0.2)
    lab.mkdir()
    with (
        filelock.FileLock(lab / "run" / "models.lock"),
        pytest.raises(EngineError, match="End it, then run this again"),
    ):
        prepare.prepare_model(progress=False)
    assert "waiting for it" in caplog.text


def test_home_by_environment_or_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("FOUNDRY_LAB_HOME", "~/lab")
    assert paths.home() == Path.home() / "lab"
    monkeypatch.setenv("FOUNDRY_LAB_HOME", " ")
    assert paths.home().name in ("foundry-lab", "Cache") and paths.home().is_absolute()


@pytest.mark.parametrize("variable", ["FOUNDRY_LAB_HOME", "FOUNDRY_LAB_MODELS", "FOUNDRY_LAB_GGUF"])
@pytest.mark.parametrize("value", ["~nobody-is-called-so/lab", "x" * 300])
def test_a_path_that_can_be_none_is_told(lab, monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=f"{variable}=.* can't be a file"):
        prepare.prepare_model(progress=False)


def test_looking_for_the_model_imports_no_converter():
    """The service and `import foundry_lab` come through here."""
    code = (
        "import sys, foundry_lab.engine.model.prepare, foundry_lab.engine.model.bundle;"
        "print({'onnx', 'gguf', 'numpy', 'onnxruntime'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_manifest_round_trip(lab):
    model = prepare.prepare_model(progress=False)
    read = prepare.read_manifest(model.path)
    assert read is not None and set(read.files) == set(spec.MODEL_FILES)
    prepare.write_manifest(model.path)
    assert prepare.read_manifest(model.path) == read


def test_two_recipes_in_one_home_keep_their_models(lab, monkeypatch):
    """Two environments with two versions of the lab would else prepare in turns for ever."""
    first = prepare.prepare_model(progress=False)
    monkeypatch.setattr(spec, "RECIPE", spec.RECIPE + 1)
    assert prepare.find_prepared() is None
    second = prepare.prepare_model(progress=False)
    assert second.path != first.path
    assert prepare.find_prepared() == second
    monkeypatch.setattr(spec, "RECIPE", spec.RECIPE - 1)
    assert prepare.find_prepared() == first


def test_leftovers_of_a_killed_process_go_with_the_next_change(lab):
    prepare.prepare_model(progress=False)
    (lab / "preparing-killed").mkdir()
    (lab / "preparing-killed" / "model.onnx.data").write_bytes(b"x")
    prepare.remove_model()
    assert not tiny_model.workspaces(lab)


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_nobody_else_can_change_a_model_whatever_the_umask(lab):
    lab.mkdir(mode=0o700)
    before = os.umask(0)
    try:
        model = prepare.prepare_model(progress=False)
    finally:
        os.umask(before)
    for path in (model.path.parents[1], model.path.parent, model.path, *model.path.iterdir()):
        assert not path.stat().st_mode & 0o022, path


@pytest.fixture
def shared(lab, tmp_path, monkeypatch):
    """A home without a model, and a folder with one that FOUNDRY_LAB_MODELS names."""
    prepare.prepare_model(progress=False)
    folder = tmp_path / "shared models"
    shutil.move(lab / "models", folder)
    monkeypatch.setenv("FOUNDRY_LAB_MODELS", str(folder))
    return folder


def test_a_shared_model_is_used_where_it_lies(lab, shared):
    model = prepare.prepare_model(progress=False)
    assert model.path.is_relative_to(shared) and model.problem is None
    assert not (lab / "models").exists()


@pytest.mark.parametrize(
    "act",
    [
        lambda: prepare.prepare_model(progress=False, force=True),
        prepare.remove_model,
        lambda: bundle.import_model(__file__),
    ],
)
def test_a_shared_model_is_never_changed(shared, act):
    before = {file: file.stat().st_mtime_ns for file in shared.rglob("*")}
    with pytest.raises(EngineError, match=r"only read here.*it is ready.*unset FOUNDRY_LAB_MODELS"):
        act()
    assert {file: file.stat().st_mtime_ns for file in shared.rglob("*")} == before


def test_a_shared_folder_without_a_model_is_an_error_not_a_download(lab, shared, monkeypatch):
    monkeypatch.setenv("FOUNDRY_LAB_MODELS", str(shared / "elsewhere"))
    with pytest.raises(EngineError, match=r"elsewhere, which is only read.*manifest\.json is missing"):
        prepare.prepare_model(progress=False)
    assert not (shared / "elsewhere").exists()


def test_the_service_gets_a_shared_model_with_a_configuration_of_its_own(lab, shared, monkeypatch):
    """What the shared folder says of libraries and threads doesn't count here."""
    prepared = paths.model_dir()
    (prepared / spec.CONFIG).write_text('{"model": "/tmp/evil.so"}')
    for file in prepared.iterdir():
        file.chmod(0o444)
    cache = runtime.fit_to_machine()
    seen = cache / prepared.relative_to(shared)
    assert cache.is_relative_to(lab)
    assert {file.name for file in seen.iterdir()} == {*spec.MODEL_FILES, spec.CONFIG}
    assert "evil" not in (seen / spec.CONFIG).read_text()
    for name in spec.MODEL_FILES:
        assert (seen / name).read_bytes() == (prepared / name).read_bytes()
    assert runtime.fit_to_machine() == cache, "and a second time"


def test_a_full_disk_at_a_services_start_is_told_as_that(lab, shared, monkeypatch):
    """To prepare the model anew would not help, and a shared one can't be."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    monkeypatch.setattr(runtime, "write_config", lambda folder: raising(full))
    with pytest.raises(EngineError, match=r"disk is too full.*Free some space"):
        runtime.fit_to_machine()


def test_where_links_are_not_allowed_a_shared_model_is_copied(lab, shared, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError(1314, "A required privilege is not held by the client")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    seen = runtime.fit_to_machine() / paths.model_dir().relative_to(shared)
    assert not any(file.is_symlink() for file in seen.iterdir())
    assert (seen / "tokenizer.json").read_bytes() == (paths.model_dir() / "tokenizer.json").read_bytes()


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
@pytest.mark.parametrize("part", [".", "model.onnx"])
def test_a_model_that_others_can_change_is_not_served(lab, part):
    model = prepare.prepare_model(progress=False)
    (model.path / part).chmod(0o777)
    with pytest.raises(EngineError, match=r"can be changed by every user.*chmod -R go-w"):
        runtime.fit_to_machine()
