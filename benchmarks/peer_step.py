"""Training step and forward pass in PyTorch with its fastest settings, for benchmarks against PyTorch."""

import contextlib
import os
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from benchmarks import peer

torch.set_num_threads(len(os.sched_getaffinity(0)))

torch.backends.cudnn.benchmark = True  # chooses the fastest convolutions by measurement

CUDA_GRAPHS = ("reduce_overhead", "reduce_overhead_channels_last")
"""Variants of torch.compile that record CUDA graphs, so they need a GPU."""
VARIANTS = (
    "eager", "channels_last", "compile", "compile_channels_last", *(CUDA_GRAPHS if torch.cuda.is_available() else ()),
)  # fmt: skip


def device() -> torch.device:
    """The GPU if PyTorch finds one, otherwise the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def tensors(batch: dict) -> dict:
    """A batch as tensors on the device."""
    return {name: torch.as_tensor(np.asarray(value)).to(device()) for name, value in batch.items()}


def build_network(config, params: dict, batch_stats: dict, batch: dict, variant: str):
    """The PyTorch network with our parameters, in the memory layout of a variant."""
    _, frames, mel_bins = batch["log_mel"].shape
    network = peer.Network(
        frames=frames, mel_bins=mel_bins, scenes=params["scene"]["output"]["bias"].shape[0],
        events=batch["events"].shape[-1], channels=config.channels, hidden=config.hidden, slope=config.slope,
    )  # fmt: skip
    network = peer.copy_into(network, params, batch_stats).to(device())
    if "channels_last" in variant:
        network = network.to(memory_format=torch.channels_last)
    return network


def compile_for(function: Callable, variant: str) -> Callable:
    """Compiles a function with torch.compile, except for the variants `eager` and `channels_last`."""
    if variant in CUDA_GRAPHS:
        return torch.compile(function, mode="reduce-overhead")
    return torch.compile(function) if variant.startswith("compile") else function


def automatic_precision():
    """bfloat16 products on a GPU, float32 on a CPU."""
    return torch.autocast("cuda", torch.bfloat16) if torch.cuda.is_available() else contextlib.nullcontext()


def multi_focal_loss(logits, batch: dict, config) -> torch.Tensor:
    """Eqs. 3, 5 and 6 in log space, with reduction `mean`; clips have no padding."""
    scene_logits, event_logits = (x.float() for x in logits)
    log_y = functional.log_softmax(scene_logits, -1)
    is_true = functional.one_hot(batch["scene"].long(), log_y.shape[-1]).bool()
    log_true = log_y[is_true]
    log_others = log_y.masked_fill(is_true, -torch.inf).logsumexp(-1)
    scene = -(config.eta * log_others).exp() * log_true
    active = batch["events"]
    margin = torch.where(active, event_logits, -event_logits)
    focus = torch.where(active, config.gamma, config.zeta)
    event = -(focus * functional.logsigmoid(-margin)).exp() * functional.logsigmoid(margin)
    return config.alpha * scene.mean() + config.beta * event.mean()


def training(config, params: dict, batch_stats: dict, batch: dict, variant: str):
    """Returns the network, and a function that starts the next training step and returns its loss on the device.

    The next step may overwrite the loss. RAdam has no fused form; on GPUs it uses the one for many arrays at once (`foreach`).
    """
    network = build_network(config, params, batch_stats, batch, variant).train()
    optimiser = torch.optim.RAdam(network.parameters(), lr=config.learning_rate)
    batch = tensors(batch)

    def batch_loss():
        with automatic_precision():
            logits = network(batch["log_mel"])
        return multi_focal_loss(logits, batch, config)

    batch_loss = compile_for(batch_loss, variant)

    def step():
        if variant in CUDA_GRAPHS:
            torch.compiler.cudagraph_mark_step_begin()
        optimiser.zero_grad(set_to_none=True)
        loss = batch_loss()
        loss.backward()
        optimiser.step()
        return loss.detach()

    return network, step


def forward(config, params: dict, batch_stats: dict, batch: dict, variant: str):
    """Returns a function that computes the logits with the running statistics, on the device."""
    network = build_network(config, params, batch_stats, batch, variant).eval()
    log_mel = torch.as_tensor(batch["log_mel"]).to(device())
    network_call = compile_for(network, variant)

    def run():
        with torch.inference_mode(), automatic_precision():
            return network_call(log_mel)

    return run
