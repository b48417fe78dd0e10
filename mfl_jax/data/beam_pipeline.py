"""Calls a function for each text of a list, by the workers of an Apache Beam pipeline.

The workers see the files that the asking machine sees, under the same paths, and have mfl_jax installed. What they make lies in
files; through the pipeline itself go texts alone.
"""

import contextlib
import io
import json
import pathlib
import shlex
from collections.abc import Callable, Iterable, Iterator

from mfl_jax.errors import InputError
from mfl_jax.runtime import storage


def check(options: str) -> None:
    """Raises an InputError where Apache Beam is missing, or can't read the options of a pipeline."""
    _parsed(options)


def for_each(texts: Iterable[str], function: Callable[[str], object], options: str, *, file: pathlib.Path) -> None:
    """Calls a function for each text, once or, where a worker is lost, more often, in no given order.

    Args:
      texts: what the function takes.
      function: a function of a module that the workers have, or a partial of one; what it returns is dropped.
      options: of the pipeline, as on a command line; DirectRunner where they name no runner.
      file: a JSON file that hands the texts to the workers; what went wrong is written beside it.

    Raises:
      InputError: the function raised one, or an OSError, for some text (one is named, all are counted); or the pipeline failed.
    """
    import apache_beam

    answers = file.with_suffix(".wrong.json")
    answers.unlink(missing_ok=True)
    storage.atomic_write(file, json.dumps(list(texts)))
    with _failures(), apache_beam.Pipeline(options=_parsed(options)) as pipeline:
        # A worker reads the texts and they are dealt out from there: many of them would make the pipeline itself too large.
        wrong = (
            pipeline
            | "file" >> apache_beam.Create([str(file)])
            | "texts" >> apache_beam.FlatMap(_texts)
            | "deal out" >> apache_beam.Reshuffle()
            | "call" >> apache_beam.Map(_call, function)
            | "wrong" >> apache_beam.Filter(bool)
        )
        wrong | "list" >> apache_beam.combiners.ToList() | "write" >> apache_beam.Map(_write, str(answers))
    if not answers.is_file():
        raise InputError(
            f"config.beam: the workers do not reach {file.parent}; data_dir lies where all of them do, under one path"
        )
    if found := json.loads(answers.read_text(encoding="utf-8")):
        raise InputError(min(found) + (f" (and {len(found) - 1} more)" if len(found) > 1 else ""))


def _parsed(options: str):
    try:
        from apache_beam.options import pipeline_options
    except ImportError:
        raise InputError("config.beam: Apache Beam is missing: pip install -e '.[beam]'") from None
    said = io.StringIO()  # argparse says what is wrong, below a page of usage, and ends the process
    try:
        with contextlib.redirect_stderr(said):
            parsed = pipeline_options.PipelineOptions(shlex.split(options))
            parsed.get_all_options()  # nothing is read before it is asked for
            standard = parsed.view_as(pipeline_options.StandardOptions)
        standard.runner = standard.runner or "DirectRunner"
    except (ValueError, SystemExit) as error:
        what = said.getvalue().strip().rpartition("error: ")[2] or error
        raise InputError(f"config.beam: {options!r} are no options of a pipeline ({what})") from None
    return parsed


@contextlib.contextmanager
def _failures() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # runners raise whatever they like, some with the traceback of a worker as their text
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise InputError(f"config.beam: the pipeline failed: {lines[-1].strip()}") from error


def _texts(file: str) -> list[str]:
    return json.loads(pathlib.Path(file).read_text(encoding="utf-8"))


def _call(text: str, function: Callable[[str], object]) -> str:
    """What a user can mend goes through the pipeline as a text; runners would try it again and again."""
    try:
        function(text)
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or text}: {error.strerror or error}"
    return ""


def _write(wrong: list[str], file: str) -> None:
    storage.atomic_write(pathlib.Path(file), json.dumps(wrong))
