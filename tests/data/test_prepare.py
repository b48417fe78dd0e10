"""Finding builders and preparing data sets by them: once, whole, and never another package's `datasets`."""

import subprocess
import sys

import pytest

from mfl_jax.data import prepare
from mfl_jax.errors import InputError
from support.small import AUDIO, small_config, small_dataset, write_recordings


def test_prepared_once_is_found_again(tmp_path):
    first = small_dataset(tmp_path)
    (tmp_path / "recordings" / "meta" / "meta_development.txt").unlink()  # would be missed if it were read again
    again = prepare.prepare("annotated_audio/small", data_dir=tmp_path / "data", manual_dir=tmp_path / "recordings", **AUDIO)
    assert again == first


def test_what_an_interrupted_preparation_left_is_removed(tmp_path, capsys):
    left = tmp_path / "data" / "annotated_audio" / "small" / "incomplete.ABC_1.0.0"
    left.mkdir(parents=True)
    small_dataset(tmp_path)
    assert not left.exists() and "broken off" in capsys.readouterr().err


def test_unknown_builders_and_configs_are_refused_with_the_known_ones(tmp_path):
    with pytest.raises(InputError, match=r"'nothing' .*annotated_audio, soundscapes, tut_scenes_events"):
        prepare.prepare("nothing/full", data_dir=tmp_path)
    with pytest.raises(InputError, match="no config 'huge', but quick, full"):
        prepare.prepare("soundscapes/huge", data_dir=tmp_path)
    with pytest.raises(InputError, match="no config 'fold5', but full, fold1"):
        prepare.prepare("tut_scenes_events/fold5", data_dir=tmp_path, manual_dir=tmp_path)


def test_a_builder_with_settings_of_its_own_takes_no_others():
    with pytest.raises(InputError, match="lays its audio settings down itself"):
        prepare.load_builder("soundscapes").Builder.make_config("quick", mel_bins=40)


def test_a_builder_alone_means_its_first_config():
    assert prepare.complete_name("tut_scenes_events") == "tut_scenes_events/full"
    assert prepare.complete_name("soundscapes") == "soundscapes/quick"
    assert prepare.complete_name("annotated_audio/mine") == "annotated_audio/mine"


def test_without_data_two_commands_are_named(tmp_path):
    config = small_config(tmp_path, dataset="tut_scenes_events")
    with pytest.raises(InputError) as caught:
        prepare.prepare_from_config(config)
    assert "--config.dataset=tut_scenes_events/full --config.manual_dir=DIR --mode=prepare" in str(caught.value)
    assert "--config.dataset=soundscapes/full" in str(caught.value)


def test_a_config_prepares_from_its_manual_dir_and_then_needs_it_no_more(tmp_path):
    root = write_recordings(tmp_path / "recordings", development=2, evaluation=2)
    made = prepare.prepare_from_config(small_config(tmp_path, manual_dir=str(root)))
    assert prepare.prepare_from_config(small_config(tmp_path)) == made


def test_other_audio_settings_than_prepared_are_refused(tmp_path):
    small_dataset(tmp_path, development=2, evaluation=2)
    config = small_config(tmp_path)
    config.audio.clip_s = 2.0
    with pytest.raises(InputError, match="prepared with other settings"):
        prepare.prepare_from_config(config)


def test_a_spoiled_data_set_is_named(tmp_path):
    dataset = small_dataset(tmp_path, development=2, evaluation=2)
    (dataset.directory / "metadata.json").write_text("{}")
    with pytest.raises(InputError, match="not a data set prepared by mfl_jax"):
        prepare.prepare("annotated_audio/small", data_dir=tmp_path / "data")


def test_a_package_named_datasets_is_neither_shadowed_nor_taken(tmp_path):
    """Hugging Face's library has that name: ours is loaded by file, theirs is imported as ever."""
    package = tmp_path / "site" / "datasets"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("whose = 'theirs'\n")
    program = (
        "import datasets; from mfl_jax.data import prepare; builder = prepare.load_builder('soundscapes').Builder; "
        "import datasets as again; assert again is datasets and datasets.whose == 'theirs'; print(builder.name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": f"{tmp_path / 'site'}"}, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "soundscapes", done.stderr


def test_reading_prepared_data_loads_no_builder_and_no_tensorflow(tmp_path):
    small_dataset(tmp_path, development=2, evaluation=2)
    program = (
        "import sys; from mfl_jax.data.prepared_dataset import open_dataset; "
        "d = open_dataset('annotated_audio/small', sys.argv[1]); "
        "print(len(d.read('development')), [m for m in sys.modules if 'tensorflow.' in m or '_mfl_jax_datasets' in m])"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "data")], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "6 []", done.stderr
