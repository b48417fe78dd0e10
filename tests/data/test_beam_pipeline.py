"""Preparing with an Apache Beam pipeline: the same bytes, messages and errors as on one machine."""

import importlib.util
import shutil
import sys

import pytest

from mfl_jax.data import beam_pipeline
from mfl_jax.errors import InputError
from support.small import prepare_in_shards, prepare_small

IN_PROCESS = "--runner=DirectRunner"
IN_TWO_PROCESSES = "--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_processing"
needs_beam = pytest.mark.skipif(not importlib.util.find_spec("apache_beam"), reason="needs Apache Beam")


def test_without_apache_beam_the_extra_is_named(recordings, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.setitem(sys.modules, "apache_beam.options", None)
    with pytest.raises(InputError, match=r"Apache Beam is missing: pip install -e '\.\[beam\]'"):
        prepare_small(tmp_path / "data", recordings, beam=IN_PROCESS)
    assert not (tmp_path / "data").exists()


def test_workers_that_write_elsewhere_are_reported(recordings, tmp_path, monkeypatch):
    monkeypatch.setattr(beam_pipeline, "check_options", lambda options: None)
    monkeypatch.setattr(beam_pipeline, "run_for_each", lambda *_, **__: None)
    message = r"12 spectrograms computed by the workers .* the first: audio/development_0\.wav; .*same path"
    with pytest.raises(InputError, match=message):
        prepare_small(tmp_path, recordings, beam=IN_PROCESS)


@pytest.fixture(scope="module")
def three_shards(recordings, tmp_path_factory):
    """The files of the data set that threads of this machine prepare in three shards per split."""
    folder = tmp_path_factory.mktemp("threads")
    prepare_in_shards(folder, recordings, 3)
    return read_files(folder)


def read_files(data_dir):
    return {file.name: file.read_bytes() for file in (data_dir / "annotated_audio" / "small" / "1.0.0").iterdir()}


@needs_beam
@pytest.mark.parametrize("beam", [IN_PROCESS, pytest.param(IN_TWO_PROCESSES, marks=pytest.mark.ci_only)])
def test_a_pipeline_writes_the_same_bytes_as_threads(recordings, three_shards, fork_server, tmp_path, beam):
    program = """
        from support import small
        small.prepare_in_shards(arguments[0], arguments[1], 3, beam=arguments[2])
    """
    done = fork_server.run(program, tmp_path, recordings, beam)
    assert done.returncode == 0, done.stderr
    files = read_files(tmp_path)
    assert files == three_shards and sum("array_record" in name for name in files) == 6


@needs_beam
def test_a_pipeline_reports_what_this_machine_reports(recordings, prepared, fork_server, tmp_path):
    """Compares errors in recordings, warnings and the fingerprint."""
    root = shutil.copytree(recordings, tmp_path / "recordings")
    for name in ("development_0", "development_1"):
        (root / "audio" / f"{name}.wav").write_bytes(b"not audio")
    program = """
        from mfl_jax.errors import InputError
        from support import small
        try:
            print(small.prepare_small(arguments[0], arguments[1], beam=arguments[2]).fingerprint)
        except InputError as error:
            print(error)
    """
    done = fork_server.run(program, tmp_path / "data", root, IN_PROCESS)
    assert done.stdout.count("\n") == 1 and all(f"development_{n}.wav: not readable" in done.stdout for n in (0, 1)), done.stderr
    assert "development_0.wav: not readable as audio" in done.stdout
    for name in ("development_0", "development_1"):
        shutil.copy2(recordings / "audio" / f"{name}.wav", root / "audio" / f"{name}.wav")
    with open(root / "meta" / "meta_evaluation.txt", "a") as file:
        file.write("audio/evaluation_0.wav\tcalm\t2.5\t2.9\thigh\n")
    done = fork_server.run(program, tmp_path / "data", root, IN_PROCESS)
    assert done.stdout.strip() == prepare_small(tmp_path / "threads", root).fingerprint != prepared.fingerprint
    assert "1 events end after their recording and were cut off there" in done.stderr
    assert "reusing 10 of 12 spectrograms" in done.stderr


@needs_beam
def test_invalid_options_are_one_line(recordings, fork_server, tmp_path):
    program = """
        from mfl_jax.errors import InputError
        from support import small
        for beam in ("--runner='DirectRunner", "--direct_running_mode=fast", "--runner=FastRunner"):
            try:
                small.prepare_small(arguments[0], arguments[1], beam=beam)
            except InputError as error:
                print(error)
    """
    done = fork_server.run(program, tmp_path, recordings)
    lines = done.stdout.splitlines()
    assert len(lines) == 3 and all(line.startswith("config.beam: ") for line in lines), done.stderr
    for line, reason in zip(lines, ("No closing quotation", "invalid choice: 'fast'", "FastRunner"), strict=True):
        assert reason in line
