"""Runs over several hosts: joining the cluster, ending together, and reporting a lost host.

A host is one process of JAX's multi-controller runtime. All hosts run the same command; only the first writes files and prints.
"""

import contextlib
import ctypes
import faulthandler
import functools
import importlib.util
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from typing import NamedTuple

from absl import flags

from mfl_jax.errors import InputError

HEARTBEAT_S = 30
"""A host that sends no heartbeat for this long counts as lost, and the others end."""
LONGEST_WAIT_S = 24 * 3600
"""A finished host waits this long for the others to finish."""
REFUSAL_WAIT_S = 20.0
"""A host that refuses its input waits this long for the others to print their own refusal."""
LOST = 1
"""Exit status after another host was lost."""
WHAT_TO_DO = "start the same command on all hosts again: it goes on from the last checkpoint"


class ClusterPlace(NamedTuple):
    """The place of a host in a run.

    Attributes:
      coordinator: HOST:PORT of the first host.
      processes: number of hosts.
      process: index of this host, from 0.
    """

    coordinator: str
    processes: int
    process: int


def define_flags() -> None:
    """Defines the flags that place this process in a cluster."""
    flags.DEFINE_string("coordinator", None, "HOST:PORT of the first of several processes; JAX_COORDINATOR_ADDRESS.")
    flags.DEFINE_integer("processes", None, "Number of processes of the run; JAX_NUM_PROCESSES.")
    flags.DEFINE_integer("process", None, "Index of this process, from 0; JAX_PROCESS_ID.")
    flags.DEFINE_enum("hosts", "auto", ["auto", "one"], "auto also joins the tasks of a Slurm step and of a TPU slice.")


def find_cluster_place(flag_values: Mapping, environment: Mapping) -> ClusterPlace | None:
    """Finds the place of this process from flags and environment variables.

    Args:
      flag_values: of the flags `coordinator`, `processes`, `process` and `hosts`.
      environment: environment variables, such as `os.environ`.

    Returns:
      None for a run of one process, and on a Cloud TPU, where only JAX knows the place.

    Raises:
      InputError: a part of the place is missing or invalid.
    """
    if flag_values["hosts"] == "one":
        return None
    coordinator = flag_values["coordinator"] or environment.get("JAX_COORDINATOR_ADDRESS")
    processes = _integer("processes", flag_values["processes"], environment.get("JAX_NUM_PROCESSES"))
    process = _integer("process", flag_values["process"], environment.get("JAX_PROCESS_ID"))
    tasks = _integer("SLURM_STEP_NUM_TASKS", None, environment.get("SLURM_STEP_NUM_TASKS")) or 1
    if tasks > 1 and None in (processes, process):
        # Set by `srun`; a batch script alone is no step.
        processes, process = tasks, _integer("SLURM_PROCID", None, environment.get("SLURM_PROCID"))
        coordinator = coordinator or _slurm_coordinator(environment)
    return _check_place(coordinator, processes, process)


def _check_place(coordinator: str | None, processes: int | None, process: int | None) -> ClusterPlace | None:
    values = {"coordinator": coordinator, "processes": processes, "process": process}
    missing = [f"--{name}" for name, value in values.items() if value is None]
    if len(missing) == len(values):
        return None
    if coordinator is None or processes is None or process is None:
        raise InputError(f"{', '.join(missing)} missing: a run over several hosts needs --coordinator, --processes and --process")
    if processes < 1 or not 0 <= process < processes:
        raise InputError(f"--process={process} is not one of {processes} processes, which count from 0")
    if not re.fullmatch(r".+:\d{1,5}", coordinator):
        raise InputError(f"--coordinator={coordinator}: must be HOST:PORT")
    return ClusterPlace(coordinator, processes, process) if processes > 1 else None


def _integer(name: str, flag_value: int | None, variable: str | None) -> int | None:
    """Returns the value of a flag or else of an environment variable."""
    if flag_value is not None or variable is None:
        return flag_value
    try:
        return int(variable)
    except ValueError:
        raise InputError(f"{name} is {variable!r} in the environment; it must be a whole number") from None


def _slurm_coordinator(environment: Mapping) -> str:
    """Returns the first node of the Slurm step, with a port that depends on the job."""
    nodes = environment.get("SLURM_STEP_NODELIST", "")
    match = re.match(r"([^,\[]+)(?:\[(\d+))?", nodes)
    if not match:
        raise InputError(f"SLURM_STEP_NODELIST is {nodes!r}, not a list of nodes; pass --coordinator=HOST:PORT")
    port = 61_440 + int(environment.get("SLURM_JOB_ID", "0")) % 4096
    return f"{match[1]}{match[2] or ''}:{port}"


def join_cluster() -> None:
    """Joins the other hosts, if any. Call it before JAX looks for devices and before any thread starts.

    The process continues in a child. JAX aborts a process that has lost another host; the parent then says so in plain words.

    Raises:
      InputError: flags or environment variables are invalid.
    """
    flag_values = {name: flags.FLAGS[name].value for name in ("coordinator", "processes", "process", "hosts")}
    place = find_cluster_place(flag_values, os.environ)
    may_use_tpu = flag_values["hosts"] == "auto" and "cpu" not in os.environ.get("JAX_PLATFORMS", "")
    if place is None and not (may_use_tpu and importlib.util.find_spec("libtpu")):
        return
    _continue_in_child(place)
    import jax

    initialize = functools.partial(
        jax.distributed.initialize, heartbeat_timeout_seconds=HEARTBEAT_S, shutdown_timeout_seconds=LONGEST_WAIT_S
    )
    if place is not None:
        # JAX's own Slurm detection would give each process one device, though there is one process per node.
        initialize(*place, cluster_detection_method="deactivate")
        return
    try:
        initialize()
    except ValueError:
        return  # libtpu is installed, but this is not a Cloud TPU


def _continue_in_child(place: ClusterPlace | None) -> None:
    """Forks. The child returns; the parent forwards signals to it, waits, and exits with its status."""
    parent = os.getpid()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)  # so that ctrl-C reaches it once, through its parent
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: killed together with its parent
        if os.getppid() != parent:
            os._exit(LOST)
        faulthandler.disable()  # absl's; JAX's own message is enough when it aborts
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, _: os.kill(child, number))
    _, wait_status = os.waitpid(child, 0)
    status = os.waitstatus_to_exitcode(wait_status)
    if status == -signal.SIGABRT:
        name = f"process {place.process} of {place.processes}, coordinator {place.coordinator}" if place else "TPU worker"
        print(
            f"error: another process of this run was lost, or never came ({name}); {WHAT_TO_DO}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        status = LOST
    os._exit(status if status >= 0 else 128 - status)


def is_multihost() -> bool:
    """Returns whether this process is one of several hosts of a run."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized() and jax.process_count() > 1


def is_lost_host_error(error: Exception) -> bool:
    """Returns whether JAX or Orbax raised `error` because another host ended during a collective operation."""
    signs = ("gloo", "connection closed", "connection reset", "unavailable", "nccl", "coordination", "barrier", "deadline")
    return is_multihost() and any(sign in str(error).lower() for sign in signs)


def exit_after_refusal(status: int) -> None:
    """Ends a process of several that has printed why it refuses its input; returns at once on a single host.

    Invalid input is usually refused by every host, each by itself. The first to exit would abort the others before they could
    print the reason. Hence all hosts meet in JAX's shutdown, after which none can be aborted. A host that refuses alone, while
    the others work on, exits after `REFUSAL_WAIT_S`; then they notice that it is lost.
    """
    if not is_multihost():
        return
    import jax

    sys.stdout.flush()
    sys.stderr.flush()
    timer = threading.Timer(REFUSAL_WAIT_S, os._exit, [status])
    timer.daemon = True
    timer.start()
    with contextlib.suppress(Exception):  # the reason is printed; how the others end does not change it
        jax.distributed.shutdown()
    os._exit(status)


def exit_without_waiting(status: int) -> None:
    """Ends a failed process of several at once; the others notice and end too. Returns at once on a single host."""
    if is_multihost():
        if sys.exc_info()[0] is not None:
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
