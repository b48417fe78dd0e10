"""Preparing data sets: finding builders, interrupted preparations, full disks, and configs."""

import importlib.util
import shutil

import pytest
from tensorflow_datasets.core import shuffle

from mfl_jax.data import prepare
from mfl_jax.data.builder import SPECTROGRAMS
from mfl_jax.errors import InputError
from support.small import AUDIO, prepare_small, small_config, write_recordings

needs_beam = pytest.mark.skipif(not importlib.util.find_spec("apache_beam"), reason="needs Apache Beam")
with_and_without_beam = pytest.mark.parametrize("beam", ["", pytest.param("--runner=DirectRunner", marks=needs_beam)])


def read_files(directory):
    return {file.name: file.read_bytes() for file in directory.iterdir()}


def test_a_prepared_data_set_is_opened_without_its_recordings(small_data):
    folder, dataset = small_data
    assert prepare_small(folder / "data", None) == dataset


def test_only_the_data_set_remains(prepared):
    assert sorted(path.name for path in prepared.directory.parent.iterdir()) == [".lock", ".sources.json", "1.0.0"]


def test_an_interrupted_removal_of_spectrograms_is_completed(small_data, tmp_path):
    shutil.copytree(small_data[0] / "data", tmp_path / "data")
    leftover = tmp_path / "data" / "annotated_audio" / "small" / SPECTROGRAMS
    leftover.mkdir()
    prepare_small(tmp_path / "data", None)
    assert not leftover.exists()


@with_and_without_beam
def test_a_preparation_killed_while_computing_spectrograms_continues(
    recordings, prepared, fork_server, tmp_path, decoded_files, capsys, beam
):
    program = """
        import os, signal
        from mfl_jax.data import spectrogram_cache
        from support import small

        write_log_mel, done = spectrogram_cache.write_log_mel, []

        def write_three(path, *rest):
            if len(done) == 3:
                os.kill(os.getpid(), signal.SIGKILL)
            done.append(path)
            return write_log_mel(path, *rest)

        spectrogram_cache.write_log_mel = write_three
        os.sched_getaffinity = lambda process: {0}  # one thread: three spectrograms are complete at the kill
        small.prepare_small(arguments[0], arguments[1], beam=arguments[2])
    """
    done = fork_server.run(program, tmp_path, recordings, beam)
    assert done.returncode == -9, done.stderr
    home = tmp_path / "annotated_audio" / "small"
    assert len(list((home / SPECTROGRAMS).glob("*/*.json"))) == 3 and list(home.glob("incomplete.*"))
    dataset = prepare_small(tmp_path, recordings)
    errors = capsys.readouterr().err
    assert len(decoded_files) == 9 and "reusing 3 of 12 spectrograms of an interrupted preparation" in errors
    assert "removed the remains of an interrupted preparation" in errors
    assert dataset.fingerprint == prepared.fingerprint and read_files(dataset.directory) == read_files(prepared.directory)
    assert sorted(path.name for path in home.iterdir()) == [".lock", ".sources.json", "1.0.0"]


def test_a_preparation_killed_while_writing_shards_decodes_nothing_again(
    recordings, prepared, fork_server, tmp_path, decoded_files
):
    program = """
        import os, signal
        from mfl_jax.data import clip_cutting
        from support import small

        clip_cutting.build_example = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
        small.prepare_small(arguments[0], arguments[1])
    """
    assert fork_server.run(program, tmp_path, recordings).returncode == -9
    assert read_files(prepare_small(tmp_path, recordings).directory) == read_files(prepared.directory) and decoded_files == []


@with_and_without_beam
@pytest.mark.parametrize(("limit", "place"), [(8_000, ".f32: File too large"), (60_000, "File too large; writing ")])
def test_a_full_disk_is_one_line(recordings, fork_server, tmp_path, limit, place, beam):
    """A spectrogram has 130 frames of 128 bytes, the shard of development 24 clips of 50 frames."""
    program = """
        import resource
        from mfl_jax.errors import InputError
        from support import small

        resource.setrlimit(resource.RLIMIT_FSIZE, (int(arguments[2]), resource.RLIM_INFINITY))
        try:
            small.prepare_small(arguments[0], arguments[1], beam=arguments[3])
        except InputError as error:
            print(error)
    """
    done = fork_server.run(program, tmp_path / "data", recordings, limit, beam)
    assert done.stdout.count("\n") == 1 and place in done.stdout, done.stderr
    if not beam:
        assert done.stdout.startswith("annotated_audio/small can't be prepared in ") and "free space" in done.stdout
    assert [path.name for path in (tmp_path / "data" / "annotated_audio" / "small").glob("[!.]*")] == []


def test_a_data_dir_that_is_a_file_is_one_line(recordings, tmp_path):
    (tmp_path / "data").write_text("")
    with pytest.raises(InputError, match=r"can't be prepared in .*data: .*Not a directory; free space") as caught:
        prepare_small(tmp_path / "data", recordings)
    assert "\n" not in str(caught.value)


def test_splits_too_large_for_the_sorting_of_tfds_need_no_tensorflow(recordings, prepared, tmp_path, monkeypatch):
    """The writer of TFDS sorts up to a gigabyte in memory, and needs TensorFlow for more."""
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1000)
    assert read_files(prepare_small(tmp_path, recordings).directory) == read_files(prepared.directory)


def test_unknown_builders_and_configs_are_refused_with_the_known_ones(tmp_path):
    with pytest.raises(InputError, match=r"'nothing' .*annotated_audio, soundscapes, tut_scenes_events"):
        prepare.prepare("nothing/full", data_dir=tmp_path)
    with pytest.raises(InputError, match="no config 'huge', only quick, full"):
        prepare.prepare("soundscapes/huge", data_dir=tmp_path)
    with pytest.raises(InputError, match="no config 'fold5', only full, fold1"):
        prepare.prepare("tut_scenes_events/fold5", data_dir=tmp_path, manual_dir=tmp_path)


def test_a_builder_with_fixed_settings_accepts_no_others():
    with pytest.raises(InputError, match="has fixed audio settings"):
        prepare.load_builder("soundscapes").Builder.make_config("quick", mel_bins=40)


def test_a_bare_builder_means_its_first_config():
    assert prepare.complete_name("tut_scenes_events") == "tut_scenes_events/full"
    assert prepare.complete_name("soundscapes") == "soundscapes/quick"
    assert prepare.complete_name("annotated_audio/mine") == "annotated_audio/mine"
    with pytest.raises(InputError, match=r"add a name of your choice, e.g. annotated_audio/mine"):
        prepare.complete_name("annotated_audio")


@pytest.mark.parametrize(
    "dataset", ["annotated_audio/", "annotated_audio/mine/", "annotated_audio/../x", "annotated_audio/..", "../x", "/x", "",
                "annotated_audio/a/b", "annotated_audio/a\\b", "annotated_audio/a\n", "annotated_audio/.spectrograms"],
)  # fmt: skip
def test_a_name_that_is_no_folder_of_its_own_is_refused(dataset, tmp_path):
    with pytest.raises(InputError, match=r"must be BUILDER/NAME, e.g. annotated_audio/mine") as caught:
        prepare.prepare_from_config(small_config(tmp_path, dataset=dataset, manual_dir=str(tmp_path)))
    assert "\n" not in str(caught.value) and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["own", "mine 2", "übung-1.2", "1.0.0"])
def test_any_other_name_may_be_chosen(name, recordings, prepared, tmp_path):
    dataset = prepare.prepare(f"annotated_audio/{name}", data_dir=tmp_path, manual_dir=recordings, **AUDIO)
    assert dataset.fingerprint == prepared.fingerprint
    assert prepare.prepare(f"annotated_audio/{name}", data_dir=tmp_path) == dataset


def test_without_data_two_commands_are_suggested(tmp_path):
    config = small_config(tmp_path, dataset="tut_scenes_events")
    with pytest.raises(InputError) as caught:
        prepare.prepare_from_config(config)
    assert "--config.dataset=tut_scenes_events/full --config.manual_dir=DIR --mode=prepare" in str(caught.value)
    assert "--config.dataset=soundscapes/full" in str(caught.value)


def test_a_config_needs_manual_dir_only_once(tmp_path):
    root = write_recordings(tmp_path / "recordings", development=2, evaluation=2)
    dataset = prepare.prepare_from_config(small_config(tmp_path, manual_dir=str(root)))
    assert prepare.prepare_from_config(small_config(tmp_path)) == dataset


def test_audio_settings_other_than_those_prepared_are_refused(small_data):
    config = small_config(small_data[0])
    config.audio.clip_s = 2.0
    with pytest.raises(InputError, match="prepared with other settings"):
        prepare.prepare_from_config(config)


def test_a_damaged_data_set_is_refused(small_data, tmp_path):
    shutil.copytree(small_data[0] / "data", tmp_path / "data")
    (tmp_path / "data" / "annotated_audio" / "small" / "1.0.0" / "metadata.json").write_text("{}")
    with pytest.raises(InputError, match="not a data set prepared by mfl_jax"):
        prepare.prepare("annotated_audio/small", data_dir=tmp_path / "data", **AUDIO)


def test_another_package_named_datasets_remains_importable(fork_server, tmp_path):
    """Hugging Face's library has that name. Ours is loaded by file under a private name."""
    package = tmp_path / "site" / "datasets"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("owner = 'another'\n")
    program = """
        import sys
        sys.path.insert(0, arguments[0])
        import datasets
        from mfl_jax.data import prepare
        builder = prepare.load_builder("soundscapes").Builder
        import datasets as again
        assert again is datasets and datasets.owner == "another"
        print(builder.name)
    """
    done = fork_server.run(program, tmp_path / "site")
    assert done.stdout.strip() == "soundscapes", done.stderr
