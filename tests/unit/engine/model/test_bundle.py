"""Exporting a model and importing it elsewhere; archives that are no export change nothing."""

import gzip
import hashlib
import io
import json
import os
import stat
import tarfile

import pytest
import tiny_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foundry_lab.engine import paths, spec
from foundry_lab.engine.model import bundle, prepare
from foundry_lab.engine.private import sha256_of
from foundry_lab.errors import ConfigurationError, EngineError


@pytest.fixture
def lab(tmp_path, monkeypatch):
    return tiny_model.make_lab(tmp_path, monkeypatch)


@pytest.fixture
def archive(lab, tmp_path, monkeypatch):
    """An export of what this version's recipe makes, with the model it is of removed."""
    model = prepare.prepare_model(progress=False)
    pin(model, monkeypatch)
    file = bundle.export_model(tmp_path / "model.tar")
    prepare.remove_model()
    return file


def pin(model, monkeypatch):
    """Take the tiny model for what the recipe makes."""
    for name in spec.MODEL_FILES:
        monkeypatch.setitem(spec.SHA256, name, sha256_of(model.path / name))


def changed(archive, name, content):
    """Put another file into an archive and into its manifest, as somebody would who means harm."""
    entries = dict(enumerate(members(archive)))
    manifest = json.loads(entries[0][1])
    record = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest["files"][name] |= record
    for number, (member, _) in entries.items():
        if member.name == f"{bundle.FOLDER}/{name}":
            entries[number] = renamed(member.name, content)
    entries[0] = renamed(entries[0][0].name, json.dumps(manifest).encode())
    write(archive, entries.values())


def members(archive):
    with tarfile.open(archive) as opened:
        return [(member, opened.extractfile(member).read()) for member in opened]


def write(file, entries):
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as opened:
        for member, content in entries:
            opened.addfile(member, io.BytesIO(content))
    return file


def renamed(name, content=b"x", **attributes):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for attribute, value in attributes.items():
        setattr(member, attribute, value)
    return member, content


def assert_refused(archive, match, trust=False):
    outside = sorted(archive.parent.rglob("*"))
    with pytest.raises(EngineError, match=match) as caught:
        bundle.import_model(archive, trust=trust)
    assert "\n" not in str(caught.value)
    assert prepare.prepared_models() == []
    assert not tiny_model.workspaces(paths.home())
    assert sorted(archive.parent.rglob("*")) == outside


def test_export_and_import_into_another_home(lab, tmp_path, monkeypatch):
    model = prepare.prepare_model(progress=False)
    pin(model, monkeypatch)
    archive = bundle.export_model(tmp_path / "model.tar")
    monkeypatch.setenv("FOUNDRY_LAB_HOME", str(tmp_path / "elsewhere"))
    imported = bundle.import_model(archive)
    assert imported.size_bytes == model.size_bytes and imported.path != model.path
    assert prepare.find_prepared() == imported
    assert [listed.problem for listed in prepare.prepared_models(full=True)] == [None]
    for name in spec.MODEL_FILES:
        assert (imported.path / name).read_bytes() == (model.path / name).read_bytes()


def test_what_is_imported_is_on_the_disk_before_it_counts(lab, tmp_path, monkeypatch):
    pin(prepare.prepare_model(progress=False), monkeypatch)
    archive = bundle.export_model(tmp_path / "model.tar")
    forced = []
    monkeypatch.setattr(prepare, "force_to_disk", lambda number: forced.append(os.fstat(number).st_ino))
    bundle.import_model(archive)
    assert sorted(forced) == sorted(file.stat().st_ino for file in paths.model_dir().iterdir())


def test_export_into_a_directory_gets_a_name_and_tells_nobody_who_wrote_it(lab, tmp_path):
    prepare.prepare_model(progress=False)
    (tmp_path / "stick").mkdir()
    archive = bundle.export_model(tmp_path / "stick")
    assert archive == tmp_path / "stick" / "smollm2-135m.tar"
    assert list(archive.parent.iterdir()) == [archive]
    assert {(member.uid, member.uname) for member, _ in members(archive)} == {(0, "")}


def test_import_replaces_the_model_that_is_there(lab, tmp_path, monkeypatch):
    model = prepare.prepare_model(progress=False)
    pin(model, monkeypatch)
    archive = bundle.export_model(tmp_path / "model.tar")
    (model.path / "tokenizer.json").write_text("damaged")
    assert bundle.import_model(archive) == model
    assert prepare.find_prepared() == model


def test_nothing_to_export(lab, tmp_path):
    with pytest.raises(EngineError, match="foundry-lab model prepare"):
        bundle.export_model(tmp_path / "model.tar")
    model = prepare.prepare_model(progress=False)
    (model.path / "tokenizer.json").write_text("damaged")
    with pytest.raises(EngineError, match=r"tokenizer\.json has 7 bytes"):
        bundle.export_model(tmp_path / "model.tar")
    assert not (tmp_path / "model.tar").exists()


def test_export_replaces_no_file_and_makes_no_directory(lab, tmp_path):
    prepare.prepare_model(progress=False)
    (tmp_path / "thesis.tar").write_text("precious")
    with pytest.raises(EngineError, match="exists already"):
        bundle.export_model(tmp_path / "thesis.tar")
    assert (tmp_path / "thesis.tar").read_text() == "precious"
    with pytest.raises(EngineError, match=r"can't be written \(No such file or directory.*Choose a place"):
        bundle.export_model(tmp_path / "missing" / "model.tar")


@pytest.mark.parametrize("act", [bundle.export_model, bundle.import_model])
@pytest.mark.parametrize("name", ["~nobody-is-called-so/model.tar", "x" * 300, "model\0.tar"])
def test_a_name_that_no_file_can_have_is_told(lab, act, name):
    with pytest.raises(ConfigurationError, match="can't be a file"):
        act(name)


def test_export_leaves_files_that_stand_beside_it_alone(lab, tmp_path):
    prepare.prepare_model(progress=False)
    (tmp_path / "model.tar.part").write_text("precious")
    bundle.export_model(tmp_path / "model.tar")
    assert (tmp_path / "model.tar.part").read_text() == "precious"


def test_disk_full_while_exporting_leaves_nothing(lab, tmp_path, monkeypatch):
    prepare.prepare_model(progress=False)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    (tmp_path / "stick").mkdir()
    with pytest.raises(EngineError, match=r"can't be written.*No space left"):
        bundle.export_model(tmp_path / "stick")
    assert not any((tmp_path / "stick").iterdir())


@pytest.mark.parametrize(
    "name", ["/tmp/evil", "../evil", f"{bundle.FOLDER}/../../evil", f"{bundle.FOLDER}/evil.so", "C:\\evil"]
)
def test_files_that_do_not_belong_are_refused(archive, name):
    write(archive, [*members(archive), renamed(name)])
    assert_refused(archive, "doesn't belong")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE],
)
def test_links_and_devices_in_place_of_a_file_are_refused(archive, kind):
    entries = members(archive)
    entries[1] = renamed(entries[1][0].name, b"", type=kind, linkname="/etc/passwd")
    write(archive, entries)
    assert_refused(archive, "not a plain file")


def test_link_in_place_of_the_manifest_is_refused(archive):
    entries = members(archive)
    entries[0] = renamed(entries[0][0].name, b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")
    write(archive, entries)
    assert_refused(archive, "not a plain file")


def test_second_file_of_a_name_is_refused(archive):
    entries = members(archive)
    write(archive, [*entries, entries[1]])
    assert_refused(archive, "doesn't belong")


def test_file_larger_than_its_manifest_says_is_refused(archive):
    entries = members(archive)
    entries[1] = renamed(entries[1][0].name, entries[1][1] + b"more")
    write(archive, entries)
    assert_refused(archive, r"has [\d,]+ bytes instead of")


def test_manifest_that_claims_too_much_is_refused(archive):
    entries = members(archive)
    manifest = json.loads(entries[0][1])
    manifest["files"]["model.onnx"]["size"] = 9_999_999_999_999
    entries[0] = renamed(entries[0][0].name, json.dumps(manifest).encode())
    write(archive, entries)
    assert_refused(archive, "bytes instead of 9,999,999,999,999")


@pytest.mark.parametrize("text", [b"", b"{", b'{"model_id": "m"}', b"\xff", b'{"more": ' + b"[" * 90_000])
def test_a_manifest_that_is_none_is_refused(archive, text):
    entries = members(archive)
    entries[0] = renamed(entries[0][0].name, text)
    write(archive, entries)
    assert_refused(archive, r"manifest\.json is missing or unreadable")


def test_too_large_manifest_and_archive_are_refused(archive, monkeypatch):
    entries = members(archive)
    write(archive, [renamed(entries[0][0].name, b" " * 200_000 + entries[0][1]), *entries[1:]])
    assert_refused(archive, "more than 100,000")
    monkeypatch.setattr(bundle, "MAX_SIZE", 1000)
    assert_refused(archive, "too large")


def test_archive_without_a_manifest_is_refused(archive):
    write(archive, members(archive)[1:])
    assert_refused(archive, r"manifest\.json can't be found")


def test_missing_file_is_named(archive):
    write(archive, members(archive)[:-1])
    assert_refused(archive, r"tokenizer_config\.json can't be found")


def test_manifest_of_another_model_is_refused(archive):
    entries = members(archive)
    entries[0] = renamed(entries[0][0].name, entries[0][1].replace(spec.MODEL_ID.encode(), b"phi-4-mini:1"))
    write(archive, entries)
    assert_refused(archive, "that of another model")


def test_changed_byte_is_noticed(archive):
    entries = members(archive)
    member, content = entries[5]
    entries[5] = (member, b"\xff" + content[1:])
    write(archive, entries)
    assert_refused(archive, "is damaged")


def test_model_of_another_recipe_is_refused(archive):
    """Unless somebody trusts it."""
    entries = members(archive)
    member, content = entries[0]
    write(
        archive,
        [renamed(member.name, content.replace(b'"recipe": %d' % spec.RECIPE, b'"recipe": 99')), *entries[1:]],
    )
    assert_refused(archive, "another version of foundry-lab.*installed here")
    assert bundle.import_model(archive, trust=True) == prepare.find_prepared()


def test_other_bytes_than_the_recipes_want_trust(archive):
    """Whoever changes a file changes the manifest too."""
    changed(archive, "chat_template.jinja", b"evil")
    assert_refused(archive, r"chat_template\.jinja differ.*model import --trust /")
    model = bundle.import_model(archive, trust=True)
    assert (model.path / "chat_template.jinja").read_bytes() == b"evil"
    assert [each.problem for each in prepare.prepared_models(full=True)] == [None]


def test_no_library_is_named_by_what_was_imported(archive):
    """A custom_ops_library runs in the service, with its user's rights; trust in a model isn't that."""
    entries = {member.name.split("/")[-1]: content for member, content in members(archive)}
    config = json.loads(entries[spec.BASE_CONFIG])
    config["model"]["decoder"]["session_options"]["custom_ops_library"] = "/tmp/evil.so"
    changed(archive, spec.BASE_CONFIG, json.dumps(config).encode())
    assert_refused(archive, "another model")
    model = bundle.import_model(archive, trust=True)
    assert b"evil" not in (model.path / spec.CONFIG).read_bytes()


def test_a_base_configuration_that_is_none_does_no_harm(archive):
    changed(archive, spec.BASE_CONFIG, b'{"model": "/tmp/evil.so"}')
    assert_refused(archive, "another model")
    model = bundle.import_model(archive, trust=True)
    assert json.loads((model.path / spec.CONFIG).read_bytes())["model"]["type"] == "llama"


def test_the_bytes_of_the_real_recipe_are_pinned():
    """Every file of a model is, or an import would let it pass."""
    assert set(spec.SHA256) == set(spec.MODEL_FILES) and {len(each) for each in spec.SHA256.values()} == {64}
    assert spec.CONFIG not in spec.MODEL_FILES, "it is made here"


@pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")
def test_permissions_and_owners_of_an_archive_stay_in_it(archive):
    """Python before 3.11.4 sets what the archive says, setuid bits included."""
    entries = members(archive)
    for member, _ in entries:
        member.mode, member.uid, member.gid = 0o6777, 65534, 65534
    write(archive, entries)
    model = bundle.import_model(archive)
    for file in model.path.iterdir():
        status = file.stat()
        assert status.st_uid == os.getuid()
        assert not status.st_mode & (stat.S_ISUID | stat.S_ISGID | 0o133)


def test_what_is_no_archive_is_refused(archive, tmp_path):
    with pytest.raises(EngineError, match="is not a file"):
        bundle.import_model(tmp_path / "missing.tar")
    whole = archive.read_bytes()
    endless = tarfile.TarInfo("more")
    endless.type, endless.size = tarfile.XHDTYPE, 2**63 - 1
    header = endless.tobuf(tarfile.GNU_FORMAT)
    for content in (b"", b"\0" * 2048, b"plain text" * 200, gzip.compress(whole), header):
        archive.write_bytes(content)
        assert_refused(archive, "is not a model exported by the lab")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.floats(0, 0.999))
def test_archive_cut_anywhere_is_refused(archive, part):
    whole = archive.read_bytes()
    # Behind the last file is only padding, which nobody misses.
    with tarfile.open(archive) as opened:
        last = opened.getmembers()[-1]
        end = last.offset_data + last.size
    try:
        archive.write_bytes(whole[: int(end * part)])
        assert_refused(archive, "cut short|can't be used")
    finally:
        archive.write_bytes(whole)


def test_refused_import_keeps_the_model_that_is_there(lab, tmp_path):
    model = prepare.prepare_model(progress=False)
    archive = bundle.export_model(tmp_path / "model.tar")
    os.truncate(archive, archive.stat().st_size // 2)
    with pytest.raises(EngineError):
        bundle.import_model(archive)
    assert prepare.find_prepared() == model
