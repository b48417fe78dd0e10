"""Preparing in two stages: what is kept goes on after a kill, and a Beam pipeline makes the same bytes as this machine."""

import pathlib
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds
from tensorflow_datasets.core import shuffle

from mfl_jax.data import audio_reader, beam_pipeline, prepare, spectrogram_cache
from mfl_jax.data.builder import SPECTROGRAMS
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.errors import InputError
from support import ROOT, TESTS
from support.small import AUDIO, RATE, write_recordings

pytestmark = pytest.mark.lightly_optimised

MEL = MelConfig(**{key: value for key, value in AUDIO.items() if key != "clip_s"})
IN_PROCESS = "--runner=DirectRunner"
SEVERAL = "--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_processing"
HERE = pathlib.Path(__file__).parent


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    return write_recordings(tmp_path_factory.mktemp("beam") / "recordings", development=5, evaluation=3)


@pytest.fixture(scope="module")
def whole(recordings):
    """What an undisturbed preparation on this machine makes."""
    return prepared(recordings.parent / "whole", recordings)


def prepared(data_dir, root, beam=""):
    return prepare.prepare("annotated_audio/small", data_dir=data_dir, manual_dir=root, beam=beam, **AUDIO)


def contents(directory: pathlib.Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def run(program: str, *arguments, **options) -> subprocess.CompletedProcess:
    """Runs a program that has the arguments, `prepared` and `spectrograms` at hand, in a process of its own."""
    head = f"import sys; sys.path[:0] = {[str(HERE), str(TESTS), str(ROOT)]!r}\n"
    head += "from test_beam_pipeline import *; arguments = sys.argv[1:]\n"
    command = [sys.executable, "-c", head + textwrap.dedent(program), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


@pytest.fixture
def decoded(monkeypatch):
    """Counts the recordings that are decoded."""
    names, stream_mono = [], audio_reader.stream_mono
    monkeypatch.setattr(
        audio_reader, "stream_mono", lambda path, rate: names.append(pathlib.Path(path).name) or stream_mono(path, rate)
    )
    return names


def test_nothing_but_the_data_set_is_left(whole):
    assert sorted(path.name for path in whole.directory.parent.iterdir()) == [".lock", "1.0.0"]


KILLED = """
    import os, signal
    compute, done = spectrograms.write_log_mel, []

    def write_log_mel(path, *rest):
        if len(done) == 3:
            spectrograms.pathlib.Path(arguments[1]).mkdir(exist_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)
        made = compute(path, *rest)
        done.append(path)
        return made

    spectrograms.write_log_mel = write_log_mel
    os.sched_getaffinity = lambda process: {0}  # one thread: three recordings are whole when it is killed
    prepared(arguments[1], arguments[0], *arguments[2:])
"""


@pytest.mark.parametrize("beam", ["", IN_PROCESS])
def test_a_killed_preparation_goes_on_to_the_same_data_set(recordings, whole, tmp_path, decoded, capsys, beam):
    if beam:
        pytest.importorskip("apache_beam")
    assert run(KILLED, recordings, tmp_path / "data", *([beam] if beam else [])).returncode == -9
    home = tmp_path / "data" / "annotated_audio" / "small"
    assert len(list((home / SPECTROGRAMS).glob("*/*.json"))) == 3 and list(home.glob("incomplete.*"))
    dataset = prepared(tmp_path / "data", recordings)
    assert len(decoded) == 5 and "3 of 8 spectrograms are there from a preparation" in capsys.readouterr().err
    assert dataset.fingerprint == whole.fingerprint and contents(dataset.directory) == contents(whole.directory)
    assert sorted(path.name for path in home.iterdir()) == [".lock", "1.0.0"]


def test_a_preparation_that_is_killed_while_it_writes_shards_decodes_nothing_again(recordings, whole, tmp_path, decoded):
    program = """
        import os, signal
        from mfl_jax.data import clip_cutting
        clip_cutting.build_example = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        prepared(arguments[1], arguments[0])
    """
    assert run(program, recordings, tmp_path).returncode == -9
    assert contents(prepared(tmp_path, recordings).directory) == contents(whole.directory) and decoded == []


def test_a_spectrogram_is_kept_for_one_state_of_a_recording_and_one_setting(tmp_path, decoded):
    places = {"root": tmp_path, "folder": tmp_path / "kept"}
    soundfile.write(tmp_path / "a.wav", np.zeros(RATE), RATE)
    first = spectrogram_cache.cache_spectrogram("a.wav", mel=MEL, **places)
    assert (first.frames, first.silent) == (50, 50) and spectrogram_cache.cache_spectrogram("a.wav", mel=MEL, **places) == first
    assert decoded == ["a.wav"]
    other = MelConfig(**{**vars(MEL), "mel_bins": 16})
    assert spectrogram_cache.find_spectrogram("a.wav", mel=other, **places) is None
    soundfile.write(tmp_path / "a.wav", np.full(2 * RATE, 0.5), RATE)
    assert spectrogram_cache.find_spectrogram("a.wav", mel=MEL, **places) is None
    second = spectrogram_cache.cache_spectrogram("a.wav", mel=MEL, **places)
    assert (second.frames, second.silent) == (100, 0) and second.sha256 != first.sha256
    pathlib.Path(second.file).write_bytes(b"cut short")
    assert spectrogram_cache.find_spectrogram("a.wav", mel=MEL, **places) is None
    (tmp_path / "a.wav").unlink()
    with pytest.raises(InputError, match=r"a\.wav: no such recording"):
        spectrogram_cache.cache_spectrogram("a.wav", mel=MEL, **places)
    assert not list((tmp_path / "kept").glob("*/*.part"))


def test_one_sample_more_or_less_is_another_data_set(recordings, whole, tmp_path):
    root = shutil.copytree(recordings, tmp_path / "recordings")
    assert prepared(tmp_path / "same", root).fingerprint == whole.fingerprint
    samples, rate = soundfile.read(root / "audio" / "evaluation_0.wav", dtype="int16")
    samples[1000] ^= 1
    soundfile.write(root / "audio" / "evaluation_0.wav", samples, rate)
    assert prepared(tmp_path / "other", root).fingerprint != whole.fingerprint


FULL = """
    import resource
    from mfl_jax.errors import InputError
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(arguments[2]), resource.RLIM_INFINITY))
    try:
        prepared(arguments[1], arguments[0], *arguments[3:])
    except InputError as error:
        print(error)
"""


@pytest.mark.parametrize("beam", ["", IN_PROCESS])
@pytest.mark.parametrize(("limit", "place"), [(8_000, ".f32: File too large"), (60_000, "File too large; writing ")])
def test_a_full_disk_gets_one_line(recordings, tmp_path, limit, place, beam):
    """A spectrogram has 130 frames of 128 bytes, a shard of development 15 clips of 50 frames."""
    if beam:
        pytest.importorskip("apache_beam")
    done = run(FULL, recordings, tmp_path / "data", limit, *([beam] if beam else []))
    assert done.stdout.count("\n") == 1 and place in done.stdout, done.stderr
    if not beam:
        assert done.stdout.startswith("annotated_audio/small can't be prepared in ") and "make room" in done.stdout
    home = tmp_path / "data" / "annotated_audio" / "small"
    assert [path.name for path in home.glob("[!.]*")] == []


def test_a_data_dir_that_is_no_folder_gets_one_line(recordings, tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(InputError, match=r"can't be prepared in .*data: .*Not a directory; make room") as caught:
        prepared(tmp_path / "data", recordings)
    assert "\n" not in str(caught.value)


def test_a_split_larger_than_tfds_sorts_in_memory_needs_no_tensorflow(recordings, whole, tmp_path, monkeypatch):
    """Its own writer keeps up to a gigabyte, and hands what is more to TensorFlow."""
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1000)
    assert contents(prepared(tmp_path, recordings).directory) == contents(whole.directory)


def test_a_removal_that_was_broken_off_is_finished(recordings, tmp_path):
    left = prepared(tmp_path, recordings).directory.parent / SPECTROGRAMS
    left.mkdir()
    prepared(tmp_path, recordings)
    assert not left.exists()


def test_without_apache_beam_its_extra_is_named(recordings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.setitem(sys.modules, "apache_beam.options", None)
    with pytest.raises(InputError, match=r"Apache Beam is missing: pip install -e '\.\[beam\]'"):
        prepared(tmp_path / "data", recordings, beam=IN_PROCESS)
    assert not (tmp_path / "data").exists()


def build(data_dir, root, beam, **shards):
    """Prepares by the builder itself, into shards as many as one likes."""
    cls = prepare.load_builder("annotated_audio").Builder
    builder = cls(config=cls.make_config("small", **AUDIO), data_dir=data_dir, manual_dir=root, beam=beam)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(**shards))
    return builder


def test_shards_hold_the_clips_in_one_order(recordings, whole, tmp_path):
    builder = build(tmp_path, recordings, "", num_shards=4)
    assert builder.info.splits["development"].shard_lengths == [4, 4, 3, 4]
    for split in ("development", "evaluation"):
        several = builder.as_data_source(split)
        one = tfds.builder_from_directory(whole.directory).as_data_source(split)
        for ours, theirs in zip(several, one, strict=True):
            assert ours.keys() == theirs.keys() and all(np.array_equal(ours[key], theirs[key]) for key in ours)


def test_workers_that_write_elsewhere_are_told_of(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(beam_pipeline, "check", lambda options: None)
    monkeypatch.setattr(beam_pipeline, "for_each", lambda *_, **__: None)
    with pytest.raises(InputError, match=r"8 spectrograms that the workers .* first is of audio/development_0\.wav; .*same path"):
        prepared(tmp_path, recordings, beam=IN_PROCESS)


@pytest.mark.parametrize("beam", [IN_PROCESS, SEVERAL])
def test_a_pipeline_makes_the_same_bytes(recordings, tmp_path, beam):
    """In one process and in several; in several shards."""
    pytest.importorskip("apache_beam")
    program = "build(arguments[1], arguments[0], arguments[2], num_shards=3)"
    done = run(program, recordings, tmp_path / "beam", beam)
    assert done.returncode == 0, done.stderr
    build(tmp_path / "threads", recordings, "", num_shards=3)
    ours, theirs = (contents(tmp_path / way / "annotated_audio" / "small" / "1.0.0") for way in ("beam", "threads"))
    assert ours == theirs and sum("array_record" in name for name in ours) == 6


def test_a_pipeline_says_what_this_machine_says(recordings, whole, tmp_path):
    """Notes, the fingerprint, and what is wrong with recordings."""
    pytest.importorskip("apache_beam")
    root = shutil.copytree(recordings, tmp_path / "recordings")
    for name in ("development_0", "development_1"):
        (root / "audio" / f"{name}.wav").write_bytes(b"no audio")
    program = """
        from mfl_jax.errors import InputError
        try:
            print(prepared(arguments[1], arguments[0], arguments[2]).fingerprint)
        except InputError as error:
            print(error)
    """
    done = run(program, root, tmp_path / "data", IN_PROCESS)
    assert done.stdout.count("\n") == 1 and done.stdout.endswith("(and 1 more)\n"), done.stderr
    assert "development_0.wav: not readable as audio" in done.stdout
    for name in ("development_0", "development_1"):
        shutil.copy2(recordings / "audio" / f"{name}.wav", root / "audio" / f"{name}.wav")
    with open(root / "meta" / "meta_evaluation.txt", "a") as file:
        file.write("audio/evaluation_0.wav\tcalm\t2.5\t2.9\thigh\n")
    done = run(program, root, tmp_path / "data", IN_PROCESS)
    assert done.stdout.strip() == prepared(tmp_path / "threads", root).fingerprint != whole.fingerprint
    assert "1 events end after their recording does and were cut there" in done.stderr
    assert "6 of 8 spectrograms are there" in done.stderr


def test_wrong_options_of_a_pipeline_get_one_line(recordings, tmp_path):
    pytest.importorskip("apache_beam")
    program = """
        from mfl_jax.errors import InputError
        for beam in ("--runner='DirectRunner", "--direct_running_mode=fast", "--runner=FastRunner"):
            try:
                prepared(arguments[1], arguments[0], beam)
            except InputError as error:
                print(error)
    """
    done = run(program, recordings, tmp_path)
    said = done.stdout.splitlines()
    assert len(said) == 3 and all(line.startswith("config.beam: ") for line in said), done.stderr
    for line, answer in zip(said, ("No closing quotation", "invalid choice: 'fast'", "FastRunner"), strict=True):
        assert answer in line
