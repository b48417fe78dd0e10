"""The recordings that arguments of the predict command name."""

import io
import os
import types

import numpy as np
import pytest
import soundfile

from mfl_jax.data import audio_reader
from mfl_jax.errors import InputError
from mfl_jax.inference import audio_source, find_recordings
from mfl_jax.inference.audio_source import AudioSource


@pytest.fixture
def spool(tmp_path_factory):
    return tmp_path_factory.mktemp("spool")


def touch(folder, *names):
    """Creates empty files, since `find_recordings` opens no recording."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(sources):
    return [source.name for source in sources]


def test_files_keep_their_order_and_are_named_by_their_last_part(tmp_path, spool):
    touch(tmp_path, "x/b.wav", "y/a.flac")
    sources = find_recordings.find_recordings([f"{tmp_path}/x/b.wav", f"{tmp_path}/y/a.flac"], spool)
    assert names(sources) == ["b.wav", "a.flac"]
    assert [source.file for source in sources] == [tmp_path / "x/b.wav", tmp_path / "y/a.flac"]


def test_named_file_may_be_hidden_and_have_any_suffix(tmp_path, spool):
    touch(tmp_path, "noise.dat", ".hidden.wav")
    assert names(find_recordings.find_recordings([f"{tmp_path}/noise.dat", f"{tmp_path}/.hidden.wav"], spool)) == [
        "noise.dat",
        ".hidden.wav",
    ]


def test_missing_file_is_kept_to_be_refused_on_its_own_later(tmp_path, spool):
    sources = find_recordings.find_recordings([f"{tmp_path}/nothing.wav", f"{tmp_path}/nothing.txt"], spool)
    assert names(sources) == ["nothing.wav", "nothing.txt"]


def test_folder_means_the_recordings_in_it_at_any_depth(tmp_path, spool):
    touch(tmp_path, "b.WAV", "a/deep/er/c.Flac", "a/d.mp3", "notes.txt", "cover.png", "noise", ".hidden.wav", "a/._d.wav")
    sources = find_recordings.find_recordings([str(tmp_path)], spool)
    assert names(sources) == ["a/d.mp3", "a/deep/er/c.Flac", "b.WAV"]
    assert [source.file for source in sources] == [tmp_path / name for name in names(sources)]


def test_argument_may_differ_from_the_file_in_unicode_form(tmp_path, spool):
    touch(tmp_path, "hu\u0308.wav")
    (source,) = find_recordings.find_recordings([f"{tmp_path}/h\u00fc.wav"], spool)
    assert source.file == tmp_path / "hu\u0308.wav"


def test_trailing_slash_changes_nothing(tmp_path, spool):
    touch(tmp_path, "a/x.wav")
    assert find_recordings.find_recordings([f"{tmp_path}/a/"], spool) == find_recordings.find_recordings([f"{tmp_path}/a"], spool)


def test_names_with_spaces_and_other_scripts(tmp_path, spool):
    touch(tmp_path, "übung/城市 1.wav", "a b.wav", "tab\there.wav", "[x].wav")
    assert set(names(find_recordings.find_recordings([str(tmp_path)], spool))) == {
        "übung/城市 1.wav",
        "a b.wav",
        "tab\there.wav",
        "[x].wav",
    }


@pytest.mark.parametrize("files", [(), ("notes.txt", "sub/list.csv"), (".hidden.wav",)])
def test_folder_without_recordings_is_refused(tmp_path, spool, files):
    touch(tmp_path, *files)
    with pytest.raises(InputError, match="no recording in this folder") as error:
        find_recordings.find_recordings([str(tmp_path)], spool)
    assert str(tmp_path) in str(error.value) and "\n" not in str(error.value)


def test_links_to_folders_are_followed_and_each_folder_counts_once(tmp_path, spool):
    touch(tmp_path, "disk/y.wav", "disk/deep/z.wav", "tree/a/x.wav", "outside.wav")
    for link, target in {
        "disk2": "../disk", "again": "../disk", "loop": ".", "up": "..", "a/sibling": "../a", "disk.wav": "../disk/y.wav",
        ".hidden": "../disk",
    }.items():  # fmt: skip
        (tmp_path / "tree" / link).symlink_to(target)
    (tmp_path / "disk" / "back").symlink_to("../tree")
    found = names(find_recordings.find_recordings([f"{tmp_path}/tree"], spool))
    assert found == ["a/x.wav", "again/deep/z.wav", "again/y.wav"]  # disk.wav is again/y.wav


def test_folders_that_cannot_be_listed_are_kept_to_be_refused_later(tmp_path, spool, monkeypatch):
    """Tests may run as root, for whom every folder is readable."""
    touch(tmp_path, "a/x.wav", "locked/y.wav")
    for link in ("unmounted", "unmounted.wav", "unmounted.txt", "itself"):
        (tmp_path / link).symlink_to("itself" if link == "itself" else f"nothing/{link}")
    scandir = os.scandir

    def refuse_locked(folder):
        if os.fspath(folder).endswith("locked"):
            raise PermissionError(13, "Permission denied", folder)
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse_locked)
    sources = find_recordings.find_recordings([str(tmp_path)], spool)
    assert names(sources) == ["a/x.wav", "itself", "locked", "unmounted", "unmounted.wav"]
    (source,) = find_recordings.find_recordings([f"{tmp_path}/locked"], spool)
    assert source.name == "locked"
    with pytest.raises(InputError, match=r"locked: not readable \(a folder\)"):
        next(audio_reader.stream_mono(source.file, 8000))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(InputError, match=r"locked: not readable \(a folder without permission\)"):
        next(audio_reader.stream_mono(source.file, 8000))


def test_every_recording_counts_once(tmp_path, spool, monkeypatch):
    touch(tmp_path, "a.wav", "b.wav")
    monkeypatch.chdir(tmp_path)
    assert names(find_recordings.find_recordings(["a.wav", "a.wav", "./a.wav", "b.wav"], spool)) == ["a.wav", "b.wav"]
    (tmp_path / "list.txt").write_text("b.wav\na.wav\nb.wav\n")
    assert names(find_recordings.find_recordings([f"{tmp_path}/b.wav", str(tmp_path), f"{tmp_path}/list.txt"], spool)) == [
        "b.wav",
        "a.wav",
    ]


@pytest.mark.parametrize("other", ["{}/a.wav", "x/../a.wav"])
def test_every_recording_counts_once_however_it_is_named(tmp_path, spool, monkeypatch, other):
    touch(tmp_path, "a.wav", "x/b.wav")
    monkeypatch.chdir(tmp_path)
    assert len(find_recordings.find_recordings(["a.wav", other.format(tmp_path)], spool)) == 1


def test_equal_names_get_their_folders(tmp_path, spool):
    touch(tmp_path, "x/a.wav", "y/a.wav", "z/b.wav", "z/x/a.wav")
    for arguments in (["x", "y"], ["x/a.wav", "y/a.wav"], ["x", "y/a.wav"]):
        sources = find_recordings.find_recordings([f"{tmp_path}/{argument}" for argument in [*arguments, "z/b.wav"]], spool)
        assert sorted(names(sources)) == ["b.wav", "x/a.wav", "y/a.wav"]
    assert names(find_recordings.find_recordings([str(tmp_path)], spool)) == ["x/a.wav", "y/a.wav", "z/b.wav", "z/x/a.wav"]
    with pytest.raises(InputError, match=r"have the same name x/a\.wav; give the folder above both"):
        find_recordings.find_recordings([f"{tmp_path}/{argument}" for argument in ("x", "y", "z")], spool)


def test_list_is_relative_to_its_folder_first_and_to_the_working_directory_second(tmp_path, spool, monkeypatch):
    touch(tmp_path, "lists/both.wav", "both.wav", "here.wav", "lists/there.wav", "away/far.wav")
    rows = ["both.wav", "here.wav", "there.wav", f"{tmp_path}/away/far.wav", "nowhere.wav"]
    (tmp_path / "lists/list.txt").write_text("\n".join(rows))
    monkeypatch.chdir(tmp_path)
    sources = {source.name: source.file for source in find_recordings.find_recordings(["lists/list.txt"], spool)}
    assert {name: file.resolve() for name, file in sources.items()} == {
        "both.wav": tmp_path / "lists/both.wav",
        "here.wav": tmp_path / "here.wav",
        "there.wav": tmp_path / "lists/there.wav",
        "far.wav": tmp_path / "away/far.wav",
        "nowhere.wav": tmp_path / "lists/nowhere.wav",
    }


def test_names_from_a_list_keep_their_folders(tmp_path, spool):
    (tmp_path / "list.txt").write_text("audio/x/a.wav\n./audio//y/a.wav\n")
    assert names(find_recordings.find_recordings([f"{tmp_path}/list.txt"], spool)) == ["audio/x/a.wav", "audio/y/a.wav"]


@pytest.mark.parametrize("header", ["", "path\n", "filename\tonset\toffset\n", "FILE\n", "\n\npath\tscene_label\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_list_may_have_a_header_a_byte_order_mark_blank_rows_and_further_fields(tmp_path, spool, header, mark, end):
    text = f"{mark}{header}audio/a b.wav\tcalm\t1.0\n\n  \naudio/ü.wav\n\t\n".replace("\n", end)
    (tmp_path / "list.tsv").write_bytes(text.encode())
    assert names(find_recordings.find_recordings([f"{tmp_path}/list.tsv"], spool)) == ["audio/a b.wav", "audio/ü.wav"]


def test_only_the_first_row_of_a_list_is_a_header(tmp_path, spool):
    (tmp_path / "list.txt").write_text("a.wav\nfile\n")
    assert names(find_recordings.find_recordings([f"{tmp_path}/list.txt"], spool)) == ["a.wav", "file"]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"path\n", b"\xef\xbb\xbf"])
def test_empty_list_is_refused(tmp_path, spool, content):
    (tmp_path / "list.lst").write_bytes(content)
    with pytest.raises(InputError, match=r"list\.lst: the list names no recording"):
        find_recordings.find_recordings([f"{tmp_path}/list.lst"], spool)


def test_binary_list_is_refused(tmp_path, spool):
    soundfile.write(tmp_path / "sound.wav", np.linspace(-1, 1, 99), 8000)
    (tmp_path / "sound.wav").rename(tmp_path / "sound.txt")
    with pytest.raises(InputError, match=r"sound\.txt: not readable as UTF-8 text") as error:
        find_recordings.find_recordings([f"{tmp_path}/sound.txt"], spool)
    assert "\n" not in str(error.value)


def test_text_that_is_not_a_list_gives_no_traceback(tmp_path, spool):
    (tmp_path / "notes.txt").write_text("word " * 100)
    try:
        assert len(find_recordings.find_recordings([f"{tmp_path}/notes.txt"], spool)) == 1  # refused later
    except InputError as error:
        assert "notes.txt" in str(error)


@pytest.mark.parametrize("argument", ["y" * 300 + ".wav", "~no_user_of_this_name/a.wav"])
def test_impossible_file_name_gives_no_traceback(spool, argument):
    try:
        assert len(find_recordings.find_recordings([argument], spool)) == 1
    except InputError as error:
        assert argument in str(error)


def test_empty_argument_is_refused(tmp_path, spool, monkeypatch):
    touch(tmp_path, "a.wav")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        find_recordings.find_recordings([""], spool)


def test_standard_input_is_copied_to_a_file(tmp_path, spool, monkeypatch):
    touch(tmp_path, "a.wav")
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(b"RIFF of some kind")))
    sources = find_recordings.find_recordings([f"{tmp_path}/a.wav", "-"], spool)
    assert names(sources) == ["a.wav", "stdin"] and sources[1].file.read_bytes() == b"RIFF of some kind"
    assert os.listdir(spool) == ["stdin"]


def test_standard_input_named_twice_counts_once(spool, monkeypatch):
    monkeypatch.setattr("sys.stdin", types.SimpleNamespace(buffer=io.BytesIO(b"RIFF of some kind")))
    (sources,) = find_recordings.find_recordings(["-", "-"], spool)
    assert sources.file.read_bytes() == b"RIFF of some kind"


def test_durations_come_from_the_headers(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.zeros(12_345), 8000)
    (tmp_path / "b.wav").write_bytes(b"RIFFnonsense")
    assert audio_source.read_duration_s(AudioSource("a", tmp_path / "a.flac")) == 12_345 / 8000
    assert audio_source.read_duration_s(AudioSource("b", tmp_path / "b.wav")) is None
    assert audio_source.read_duration_s(AudioSource("c", tmp_path / "missing.wav")) is None
    assert audio_source.read_duration_s(AudioSource("d", tmp_path)) is None
    os.mkfifo(tmp_path / "pipe.wav")  # opening it would wait for a writer
    assert audio_source.read_duration_s(AudioSource("e", tmp_path / "pipe.wav")) is None
