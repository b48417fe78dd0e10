"""Opening prepared data sets and reading their clips."""

import shutil

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mfl_jax.data import prepared_dataset
from mfl_jax.errors import InputError


def test_clips_read_from_disk_equal_those_in_memory(prepared):
    source = tfds.builder_from_directory(prepared.directory).as_data_source("development")
    in_memory, on_disk = prepared_dataset.Clips(source), prepared_dataset.Clips(source, in_memory_bytes=1000)
    assert in_memory.arrays is not None and on_disk.arrays is None
    for field in prepared_dataset.ORIGIN_FIELDS:
        np.testing.assert_array_equal(getattr(on_disk, field), getattr(in_memory, field))
    for indices in (np.array([5, 0, 23]), np.arange(0)):
        expected = in_memory.take(indices)
        arrays = on_disk.take(indices)
        assert arrays.keys() == expected.keys() == {"log_mel", "events", "scene", "valid_frames", "scene_mask", "event_mask"}
        for field, array in expected.items():
            np.testing.assert_array_equal(arrays[field], array)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("in_memory_bytes", [1 << 30, 0])
def test_a_spectrogram_that_is_not_finite_is_refused_by_its_recording(value, in_memory_bytes, monkeypatch):
    """As older versions prepared them from recordings whose power overflows."""
    monkeypatch.setattr(prepared_dataset, "READ_AT_ONCE", 2)
    log_mel = np.zeros((5, 3, 2), np.float32)
    log_mel[3, 2, 1] = value

    class Source:
        def __len__(self):
            return len(log_mel)

        def __getitems__(self, indices):
            labels = {"events": np.zeros((3, 0), bool), "scene": 0, "valid_frames": 3, "fold": 0}
            return [{"log_mel": log_mel[n], "recording": f"{n}.wav", "clip_start_s": 10.0 * n, **labels} for n in indices]

    with pytest.raises(
        InputError, match=r"^data/mine: the spectrogram of 3\.wav at 30 s is not finite; repair .* prepare it again$"
    ):
        prepared_dataset.Clips(Source(), in_memory_bytes, name="data/mine")
    log_mel[3] = 0
    assert prepared_dataset.Clips(Source(), in_memory_bytes).recording.tolist() == [f"{n}.wav" for n in range(5)]


def test_the_newest_version_is_opened(tmp_path):
    """The folder of an unfinished preparation is not a version."""
    for name in ("1.0.0", "10.0.0", "9.9.9", "incomplete.ABC_11.0.0"):
        (tmp_path / "annotated_audio/mine" / name).mkdir(parents=True)
        (tmp_path / "annotated_audio/mine" / name / "dataset_info.json").touch()
    assert prepared_dataset.find_directory("annotated_audio/mine", tmp_path).name == "10.0.0"


def test_a_data_set_that_is_not_prepared_is_none(tmp_path):
    assert prepared_dataset.open_dataset("annotated_audio/mine", tmp_path) is None


def test_a_damaged_data_set_is_refused(small_data, tmp_path):
    shutil.copytree(small_data[0] / "data", tmp_path / "data")
    dataset = prepared_dataset.open_dataset("annotated_audio/small", tmp_path / "data")
    (dataset.directory / "metadata.json").write_text("{}")
    with pytest.raises(InputError, match="not a data set prepared by mfl_jax"):
        prepared_dataset.open_dataset("annotated_audio/small", tmp_path / "data")


def test_an_unknown_split_is_refused(prepared):
    for read in (prepared.read, prepared.recordings):
        with pytest.raises(InputError, match="there is no split 'test', only development, evaluation"):
            read("test")


def test_reading_imports_no_builder_and_no_tensorflow(small_data, fork_server):
    program = """
        import sys
        from mfl_jax.data.prepared_dataset import open_dataset
        clips = open_dataset("annotated_audio/small", arguments[0]).read("development")
        print(len(clips), [name for name in sys.modules if "tensorflow." in name or name.startswith("mfl_jax.builders.")])
    """
    done = fork_server.run(program, small_data[0] / "data")
    assert done.stdout.strip() == "24 []", done.stderr
