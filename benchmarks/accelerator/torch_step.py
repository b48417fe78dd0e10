"""PyTorch's training step and forward pass, in one variant of `benchmarks.peer_step`."""

import time
from collections.abc import Iterator

from benchmarks import workload
from benchmarks.accelerator import blocks, setting
from benchmarks.accelerator.setting import Setting


def measure(setting_: Setting, *, variant: str, forward: bool) -> Iterator[dict]:
    """Times the training step, then with `forward` the forward pass; bfloat16 by automatic mixed precision on a GPU."""
    name = f"torch_training_step_{variant}"
    try:
        import torch

        from benchmarks import peer_step
    except ModuleNotFoundError as error:
        yield {"piece": name, "skipped": f"{error.name} is not installed"}
        return
    device = peer_step.device()
    if setting_ != setting.SMALL and device.type == "cpu":
        yield {"piece": name, "skipped": "PyTorch finds no GPU"}
        return
    arguments = workload.arrays_for_torch(setting_.config(), setting_.dataset())
    _, step = peer_step.training(*arguments, variant)
    started = time.perf_counter()
    first_loss = step().item()
    compile_s = time.perf_counter() - started
    times = blocks.measure(step, setting_, lambda loss: loss.item())
    peak_gb = torch.cuda.max_memory_allocated() / 1e9 if device.type == "cuda" else None
    yield {"piece": name, **times, "compile_s": compile_s, "peak_gb": peak_gb, "device": device.type, "first_loss": first_loss}
    if forward:
        call = peer_step.forward(*arguments, variant)
        started = time.perf_counter()
        call()[0].sum().item()
        compile_s = time.perf_counter() - started
        times = blocks.measure(call, setting_, lambda logits: logits[0].sum().item())
        yield {"piece": f"torch_forward_{variant}", **times, "compile_s": compile_s}
