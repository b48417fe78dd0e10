"""Runs small programs in processes of their own without importing the data package anew for each.

A server process imports the package once and forks for each program, so that a program may kill itself or limit its resources.
The server has no threads while it forks: it neither imports JAX nor prepares anything itself.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import textwrap
import traceback

from support import ROOT, TESTS


class ForkServer:
    """Starts the server and sends it programs."""

    def __init__(self) -> None:
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS), str(ROOT)])}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "support.fork_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def run(self, program: str, *arguments: object) -> subprocess.CompletedProcess:
        """Runs a program that sees its `arguments` as strings; returns its status, output and errors."""
        request = {"program": textwrap.dedent(program), "arguments": [str(argument) for argument in arguments]}
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return subprocess.CompletedProcess(program, answer["status"], answer["stdout"], answer["stderr"])

    def close(self) -> None:
        """Ends the server."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def serve() -> None:
    """Forks a child for each request on standard input, and answers on standard output."""
    importlib.import_module("support.small")
    assert "jax" not in sys.modules
    if importlib.util.find_spec("apache_beam"):
        importlib.import_module("apache_beam.options.pipeline_options")
    requests, answers = sys.stdin, os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing else may write among the answers
    for line in requests:
        with tempfile.TemporaryDirectory() as name:
            answer = _run_in_child(json.loads(line), pathlib.Path(name))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _run_in_child(request: dict, folder: pathlib.Path) -> dict:
    process = os.fork()
    if not process:
        for descriptor, stream in ((1, "stdout"), (2, "stderr")):
            os.dup2(os.open(folder / stream, os.O_WRONLY | os.O_CREAT), descriptor)
        status = 1
        with contextlib.suppress(BaseException):
            try:
                exec(compile(request["program"], "program", "exec"), {"arguments": request["arguments"]})
                status = 0
            except SystemExit as stop:
                assert isinstance(stop.code, int | None)
                status = stop.code or 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)
    _, status = os.waitpid(process, 0)
    output = {stream: (folder / stream).read_text() for stream in ("stdout", "stderr")}
    return {"status": os.waitstatus_to_exitcode(status), **output}


if __name__ == "__main__":
    serve()
