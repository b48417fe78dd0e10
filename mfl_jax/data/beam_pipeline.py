"""Runs a function for each string of a list on the workers of an Apache Beam pipeline.

The workers must see the same files under the same paths as this machine, and have mfl_jax installed. Their results are files;
only strings pass through the pipeline.
"""

import contextlib
import io
import json
import pathlib
import shlex
from collections.abc import Callable, Iterable, Iterator

from mfl_jax.errors import InputError, join_first
from mfl_jax.runtime import storage
from mfl_jax.runtime.installation import install_command


def check_options(options: str) -> None:
    """Checks that Apache Beam is installed and accepts the options of a pipeline.

    Raises:
      InputError: Apache Beam is missing, or an option is invalid.
    """
    _parse_options(options)


def run_for_each(items: Iterable[str], function: Callable[[str], object], options: str, *, file: pathlib.Path) -> None:
    """Calls a function for each item, in any order; again if a worker is lost.

    Args:
      items: arguments of the function.
      function: a function of a module that the workers have, or a partial of one; its result is discarded.
      options: options of the pipeline, as on a command line; the default runner is DirectRunner.
      file: JSON file that passes the items to the workers; errors are written next to it.

    Raises:
      InputError: the function raised an InputError or OSError for some items (names the first ten, counts all), or the pipeline
        failed.
    """
    import apache_beam

    errors_file = file.with_suffix(".wrong.json")
    errors_file.unlink(missing_ok=True)
    storage.atomic_write(file, json.dumps(list(items)))
    with _report_failure(), apache_beam.Pipeline(options=_parse_options(options)) as pipeline:
        # A worker reads the items and distributes them. As a part of the pipeline itself, many items would make it too large.
        errors = (
            pipeline
            | "file" >> apache_beam.Create([str(file)])
            | "items" >> apache_beam.FlatMap(_read_items)
            | "distribute" >> apache_beam.Reshuffle()
            | "call" >> apache_beam.Map(_call_for_error, function)
            | "errors" >> apache_beam.Filter(bool)
        )
        errors | "list" >> apache_beam.combiners.ToList() | "write" >> apache_beam.Map(_write_errors, str(errors_file))
    if not errors_file.is_file():
        raise InputError(f"config.beam: the workers do not reach {file.parent}; data_dir must have the same path on all workers")
    if messages := json.loads(errors_file.read_text(encoding="utf-8")):
        raise InputError(join_first(sorted(messages), "; "))


def _parse_options(options: str):
    """Parses the options of a pipeline into Beam's `PipelineOptions`."""
    try:
        from apache_beam.options import pipeline_options
    except ImportError:
        raise InputError(f"config.beam: Apache Beam is missing: {install_command('beam')}") from None
    usage = io.StringIO()  # argparse prints the error below a page of usage, then exits
    try:
        with contextlib.redirect_stderr(usage):
            parsed = pipeline_options.PipelineOptions(shlex.split(options))
            parsed.get_all_options()  # options are parsed on first use
            standard = parsed.view_as(pipeline_options.StandardOptions)
        standard.runner = standard.runner or "DirectRunner"
    except (ValueError, SystemExit) as error:
        reason = usage.getvalue().strip().rpartition("error: ")[2] or error
        raise InputError(f"config.beam: {options!r} are not valid pipeline options ({reason})") from None
    return parsed


@contextlib.contextmanager
def _report_failure() -> Iterator[None]:
    """Turns any error of a pipeline into an InputError of one line."""
    try:
        yield
    except Exception as error:  # runners raise errors of any type, some with the traceback of a worker as their message
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise InputError(f"config.beam: the pipeline failed: {lines[-1].strip()}") from error


def _read_items(file: str) -> list[str]:
    return json.loads(pathlib.Path(file).read_text(encoding="utf-8"))


def _call_for_error(item: str, function: Callable[[str], object]) -> str:
    """Returns errors that the user can fix as a message, since runners retry after an exception; an empty string on success."""
    try:
        function(item)
    except InputError as error:
        return str(error)
    except OSError as error:
        return f"{error.filename or item}: {error.strerror or error}"
    return ""


def _write_errors(messages: list[str], file: str) -> None:
    storage.atomic_write(pathlib.Path(file), json.dumps(messages))
