"""Compiles the steps for one target: python -m benchmarks.compile_only.target NAME OPTIONS, which prints a JSON list."""

import functools
import importlib.util
import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from benchmarks import workload
from benchmarks.compile_only import program_text
from mfl_jax.errors import InputError
from mfl_jax.network import forward
from mfl_jax.runtime import parallel
from mfl_jax.training import setup

STEPS = ("train", "eval", "member", "predict")
# libtpu wants to know the type of the machine that it is on, although the topology says what to compile for.
TPU_TYPES = {"v4": "v4-8", "v5e": "v5litepod-4", "v5p": "v5p-8", "v6e": "v6e-4"}
H100 = pathlib.Path(__file__).parent / "h100.txtpb"
H100_KIND = "NVIDIA H100 80GB HBM3"


def check_target(name: str) -> None:
    """Raises InputError unless the target is known and its compiler installed."""
    if name == "h100":
        if not importlib.util.find_spec("jax_cuda13_plugin"):
            raise InputError("h100: needs the wheels of jax[cuda13]")
    elif re.fullmatch(rf"({'|'.join(TPU_TYPES)}):\d+(x\d+)+", name):
        if not importlib.util.find_spec("libtpu"):
            raise InputError(f"{name}: needs libtpu, in the version that jax[tpu] names")
    else:
        raise InputError(f"flag --targets={name}: must be h100, or one of {', '.join(TPU_TYPES)} with its chips, such as v5e:2x2")


def make_environment(name: str) -> dict[str, str]:
    """The environment of the process that compiles for a target."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    if name == "h100":
        # Choosing by measurement needs a GPU; without it, Triton has no setting for some products of several runs.
        return environment | {"XLA_FLAGS": "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false"}
    kind = TPU_TYPES[name.split(":")[0]]
    return environment | {"TPU_ACCELERATOR_TYPE": kind, "TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost"}


def find_devices(name: str) -> list:
    """The devices of a target, which need not exist."""
    if name == "h100":
        return topologies.get_topology_desc("", "cuda", target_config=H100.read_text(), topology="1x1x1").devices
    return topologies.get_topology_desc(topology_name=name, platform="tpu").devices


def build_steps(config, members: int) -> dict[str, tuple[Callable, list]]:
    """Returns each step as a function of pytrees, with the shapes of its arguments."""
    dataset = workload.make_dataset()
    graphdef, state = setup.initial_state(config, dataset)
    train_step, eval_step = setup.bind_steps(setup.step_settings(config, graphdef))
    batch, scalars = workload.make_batch(dataset, config.batch_size), setup.step_scalars(config)
    arguments = to_shapes([state, batch, scalars])
    network = [state.params, state.batch_stats, state.feature_stats, {key: batch[key] for key in forward.NETWORK_KEYS}]

    def predict(*network):
        scene, event = forward.infer(*network, graphdef=graphdef)
        return jax.nn.softmax(scene), jax.nn.sigmoid(event)

    def stack(shape):
        return jax.ShapeDtypeStruct((members, *shape.shape), shape.dtype)

    train = functools.partial(train_step, axis_name=None)
    return {
        "train": (train, arguments),
        "eval": (functools.partial(eval_step, axis_name=None), arguments),
        "member": (jax.vmap(train), jax.tree.map(stack, arguments)),
        "predict": (predict, to_shapes(network)),
    }


def to_shapes(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), tree)


def compile_steps(name: str, *, steps: list[str], batch_size: int, channels: int, compute: str, members: int) -> Iterator[dict]:
    """Yields the figures of each program of a target."""
    devices = find_devices(name)
    config = workload.make_config(batch_size=batch_size, channels=channels, compute=compute)
    built = build_steps(config, members)
    sharding = jax.sharding.SingleDeviceSharding(devices[0])
    for step in steps:
        function, arguments = built[step]
        donated = 0 if step in ("train", "member") else ()
        jitted = jax.jit(function, donate_argnums=donated, in_shardings=sharding, out_shardings=sharding)
        figures = {"target": name, "devices": 1, "step": step, "batch_size": batch_size, "compute": compute}
        yield figures | measure(functools.partial(jitted.lower, *arguments), is_gpu=name == "h100")
    if "train" in steps and len(devices) > 1 and batch_size % len(devices) == 0:
        train, (state, batch, scalars) = built["train"]
        mapped = jax.pmap(
            functools.partial(train, axis_name=parallel.AXIS), parallel.AXIS, in_axes=(None, 0, None), out_axes=None,
            devices=devices,
        )  # fmt: skip
        rows = jax.tree.map(
            lambda shape: jax.ShapeDtypeStruct((len(devices), batch_size // len(devices), *shape.shape[1:]), shape.dtype), batch
        )
        figures = {"target": name, "devices": len(devices), "step": "train", "batch_size": batch_size, "compute": compute}
        yield figures | measure(functools.partial(mapped.lower, state, rows, scalars), is_gpu=name == "h100")


def measure(lower: Callable, *, is_gpu: bool) -> dict:
    """Compiles a program and counts what it does."""
    started = time.perf_counter()
    compiled = lower_for_gpu(lower).compile() if is_gpu else lower().compile()
    seconds = time.perf_counter() - started
    counts = program_text.count(compiled.as_text())
    cost = compiled.cost_analysis() or {}
    return {
        "kernels": counts["kernels"] if is_gpu else None,
        "gflop": cost["flops"] / 1e9 if "flops" in cost else None,
        "gb_accessed": cost["bytes accessed"] / 1e9 if "bytes accessed" in cost else None,
        "gb_hbm": counts["bytes"] / 1e9,
        "gb_loops": counts["loop_bytes"] / 1e9,
        "gb_temporary": compiled.memory_analysis().temp_size_in_bytes / 1e9,
        "all_reduces": counts["all_reduces"],
        "compile_s": seconds,
    }


def lower_for_gpu(lower: Callable):
    """Lowers with an abstract GPU in place, which kernels ask for; older versions of JAX ask nothing."""
    if not hasattr(jax.sharding, "AbstractDevice"):
        return lower()
    gpu = jax.sharding.AbstractDevice(device_kind=H100_KIND, num_cores=None, platform="gpu")
    with jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((), (), abstract_device=gpu)):
        return lower()


if __name__ == "__main__":
    print(json.dumps(list(compile_steps(sys.argv[1], **json.loads(sys.argv[2])))))
