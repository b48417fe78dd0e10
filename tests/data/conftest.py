"""Fixtures of the data tests: one small prepared data set, and processes that may be killed."""

import pathlib

import pytest

from mfl_jax.data import audio_reader
from mfl_jax.data.prepared_dataset import Dataset
from support import fork_server as fork_servers
from support import small


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> tuple[pathlib.Path, Dataset]:
    """A folder with small `recordings` and `data`, and the data set prepared from them; for reading only."""
    folder = tmp_path_factory.mktemp("small_data")
    return folder, small.small_dataset(folder)


@pytest.fixture(scope="session")
def recordings(small_data) -> pathlib.Path:
    """The small recordings and their label lists; for reading only."""
    return small_data[0] / "recordings"


@pytest.fixture(scope="session")
def prepared(small_data) -> Dataset:
    """The data set of the small recordings; for reading only."""
    return small_data[1]


@pytest.fixture(scope="session")
def fork_server():
    """Runs programs in processes of their own."""
    server = fork_servers.ForkServer()
    yield server
    server.close()


@pytest.fixture
def decoded_files(monkeypatch) -> list[str]:
    """The names of the recordings that this process decodes during the test."""
    names: list[str] = []
    stream_mono = audio_reader.stream_mono

    def record(path, rate, on_warning):
        names.append(pathlib.Path(path).name)
        return stream_mono(path, rate, on_warning)

    monkeypatch.setattr(audio_reader, "stream_mono", record)
    return names
