"""Lists of recordings: where their paths start, and how they are written."""

import pytest

from mfl_jax.errors import InputError
from mfl_jax.inference.audio_source import AudioSource
from mfl_jax.inference.recording_list import read_recording_list

HEADER = "path\tscene_label\tevent_start_time\tevent_end_time\tevent_label\n"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder of recordings as the project lays it out; the working directory is another one."""
    for name in ("audio/one.wav", "audio/hu\u0308.wav", 'audio/"x" y.wav', "audio/a,b.wav", "elsewhere/x"):
        (tmp_path / "DIR" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "DIR" / name).touch()
    (tmp_path / "DIR" / "meta").mkdir()
    monkeypatch.chdir(tmp_path / "DIR" / "elsewhere")
    return tmp_path / "DIR"


def read(file, text):
    file.write_text(text, encoding="utf-8")
    return read_recording_list(file)


@pytest.mark.parametrize("folder", [".", "meta"])
@pytest.mark.parametrize("path", ["audio/one.wav", "audio\\one.wav", "./audio//one.wav"])
@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
def test_paths_start_at_the_list_or_the_folder_above_it(home, folder, path, end):
    (source,) = read(home / folder / "list.txt", path + end)
    assert source.name == "audio/one.wav" and source.file.samefile(home / "audio" / "one.wav")


def test_a_label_list_names_recordings(home):
    (source, again) = read(home / "meta" / "meta_evaluation.txt", HEADER + "audio/one.wav\tkitchen\t\t\t\n" * 2)
    assert source == again and source.name == "audio/one.wav" and source.file.samefile(home / "audio" / "one.wav")


def test_the_column_of_the_paths_may_be_any(home):
    text = ',onset,offset,event_label,filename\n0,0,1,car,audio/one.wav\n1,0,1,"car, far","audio/a,b.wav"\n'
    assert [source.name for source in read(home / "list.csv", text)] == ["audio/one.wav", "audio/a,b.wav"]


def test_a_file_has_its_own_name_on_disk(home):
    (source,) = read(home / "list.txt", "audio/h\u00fc.wav\n")
    assert source == AudioSource("audio/h\u00fc.wav", home / "audio" / "hu\u0308.wav")


def test_quoted_paths(home):
    (source,) = read(home / "list.txt", '"audio/""x"" y.wav"\n')
    assert source == AudioSource('audio/"x" y.wav', home / "audio" / '"x" y.wav')
    with pytest.raises(InputError, match=r"list\.txt, row 1: .*a field in double quotes must end with one"):
        read(home / "list.txt", '"audio/x\n')


def test_a_backslash_may_belong_to_a_name(home):
    (home / "audio\\one.wav").touch()
    (source,) = read(home / "list.txt", "audio\\one.wav\n")
    assert source == AudioSource("audio\\one.wav", home / "audio\\one.wav")


def test_a_missing_recording_is_kept_to_be_refused_on_its_own_later(home):
    assert read(home / "list.txt", "no\\where.wav\n") == [AudioSource("no\\where.wav", home / "no\\where.wav")]
