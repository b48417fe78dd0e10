"""Several processes as one run: who takes part, by flags or by what the environment says, and what happens when one is lost.

A host is a process of JAX's multi-controller runtime: all of them run the same command, the first one writes and speaks for all.
"""

import ctypes
import faulthandler
import importlib.util
import os
import re
import signal
import sys
import traceback
from collections.abc import Mapping
from typing import NamedTuple

from absl import flags

from mfl_jax.errors import InputError

HEARTBEAT_S = 30
"""A host that was silent for so long counts as lost, and the others end."""
LONGEST_WAIT_S = 24 * 3600
"""How long a host that is done waits for the others to be done."""
LOST = 1
"""Exit status of a host whose run has lost another one."""
WHAT_TO_DO = "start the same command on all hosts again: it goes on from the last checkpoint"


class Place(NamedTuple):
    """A host's place in a run: the address of the first host, the number of hosts, and which one this is."""

    coordinator: str
    processes: int
    process: int


def define_flags() -> None:
    """Defines the flags that place a host."""
    flags.DEFINE_string("coordinator", None, "HOST:PORT of the first process of a run over several; JAX_COORDINATOR_ADDRESS.")
    flags.DEFINE_integer("processes", None, "Number of processes of the run; JAX_NUM_PROCESSES.")
    flags.DEFINE_integer("process", None, "Which of them this is, from 0; JAX_PROCESS_ID.")
    flags.DEFINE_enum("hosts", "auto", ["auto", "one"], "auto also joins the tasks of a Slurm step and of a TPU slice.")


def cluster_address(given: Mapping, environment: Mapping) -> Place | None:
    """The place of this process as flags and environment have it.

    Args:
      given: the values of the flags `coordinator`, `processes`, `process` and `hosts`.
      environment: `os.environ`, or what stands for it.

    Returns:
      None for a run of one process, and where only JAX can tell (a Cloud TPU).

    Raises:
      InputError: a part of the place is missing or wrong.
    """
    if given["hosts"] == "one":
        return None
    found = {
        "coordinator": given["coordinator"] or environment.get("JAX_COORDINATOR_ADDRESS"),
        "processes": _number("processes", given["processes"], environment.get("JAX_NUM_PROCESSES")),
        "process": _number("process", given["process"], environment.get("JAX_PROCESS_ID")),
    }
    tasks = _number("SLURM_STEP_NUM_TASKS", None, environment.get("SLURM_STEP_NUM_TASKS")) or 1
    if tasks > 1 and None in (found["processes"], found["process"]):
        # Within `srun`; a batch script by itself has no step.
        found["processes"], found["process"] = tasks, _number("SLURM_PROCID", None, environment.get("SLURM_PROCID"))
        found["coordinator"] = found["coordinator"] or _slurm_coordinator(environment)
    if not any(value is not None for value in found.values()):
        return None
    if missing := [f"--{name}" for name, value in found.items() if value is None]:
        raise InputError(f"{', '.join(missing)} missing: a run over several hosts needs --coordinator, --processes and --process")
    place = Place(**found)
    if place.processes < 1 or not 0 <= place.process < place.processes:
        raise InputError(f"--process={place.process} is none of {place.processes} processes, which count from 0")
    if not re.fullmatch(r".+:\d{1,5}", place.coordinator):
        raise InputError(f"--coordinator={place.coordinator}: it is HOST:PORT")
    return place if place.processes > 1 else None


def _number(name, given, otherwise):
    if given is not None or otherwise is None:
        return given
    try:
        return int(otherwise)
    except ValueError:
        raise InputError(f"{name} is {otherwise!r} in the environment, and it is a whole number") from None


def _slurm_coordinator(environment) -> str:
    """The first node of the step, and a port that two jobs on a node do not share."""
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    match = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)
    if not match:
        raise InputError(f"SLURM_STEP_NODELIST is {nodes!r}, no list of nodes; give --coordinator=HOST:PORT")
    port = 61_440 + int(environment.get("SLURM_JOB_ID", "0")) % 4096
    return f"{match[1]}{match[2] or ''}:{port}"


def join() -> None:
    """Joins the other hosts, where there are any. To be called before JAX is asked for devices, and before there are threads.

    The process goes on in a child of it, so that it can say in plain words what became of that: JAX ends a process whose run has
    lost a host from within.

    Raises:
      InputError: flags or environment make no sense.
    """
    given = {name: flags.FLAGS[name].value for name in ("coordinator", "processes", "process", "hosts")}
    place = cluster_address(given, os.environ)
    on_tpu = given["hosts"] == "auto" and "cpu" not in os.environ.get("JAX_PLATFORMS", "") and importlib.util.find_spec("libtpu")
    if place is None and not on_tpu:
        return
    _watched(place)
    import jax

    settings = {"heartbeat_timeout_seconds": HEARTBEAT_S, "shutdown_timeout_seconds": LONGEST_WAIT_S}
    if place is not None:
        # JAX's own look at Slurm would leave each process one device, though there is one process a node.
        jax.distributed.initialize(*place, **settings, cluster_detection_method="deactivate")
        return
    try:
        jax.distributed.initialize(**settings)
    except ValueError:
        return  # TPU software, but no Cloud TPU around it


def _watched(place: Place | None) -> None:
    """Goes on in a child; the parent hands it the signals, waits, and ends with its status."""
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)  # so that ctrl-C reaches it once, through its parent
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends when its parent is killed
        if os.getppid() != parent:
            os._exit(LOST)
        faulthandler.disable()  # absl's; what JAX says when it aborts is enough
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: os.kill(child, number))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGABRT:
        where = f"process {place.process} of {place.processes}, coordinator {place.coordinator}" if place else "TPU worker"
        print(
            f"error: another process of this run was lost, or never came ({where}); {WHAT_TO_DO}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        code = LOST
    os._exit(code if code >= 0 else 128 - code)


def is_multihost() -> bool:
    """Whether this process belongs to a run over several hosts."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


def is_lost_host_error(error: Exception) -> bool:
    """Whether an error is how JAX or Orbax says, from within a sum or a meeting of hosts, that one of them has ended."""
    signs = ("gloo", "connection closed", "connection reset", "unavailable", "nccl", "coordination", "barrier", "deadline")
    return is_multihost() and any(sign in str(error).lower() for sign in signs)


def exit_without_waiting(status: int) -> None:
    """Ends a process that failed while its run goes on elsewhere, without waiting for the others: they notice, and end too."""
    if is_multihost():
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
