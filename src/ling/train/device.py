"""The device that a process trains on, and what a CUDA GPU needs where a CPU needs nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError

CPU = torch.device("cpu")


def device_type(wanted: str) -> torch.device:
    """What `train.device` (auto, cpu or cuda) comes to here, without the number of a GPU."""
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def choose_device(wanted: str) -> torch.device:
    """The device of this process, made current: local rank k takes the k-th GPU.

    Raises `UsageError` where there is none for it.
    """
    if wanted == "cuda" and not torch.cuda.is_available():
        built = torch.version.cuda is not None
        why = "torch sees none (`nvidia-smi` shows what the driver sees)"
        raise UsageError(
            f"`train.device: cuda`, but {why if built else 'torch is built for CPUs only'}; "
            "mend that, or set `train.device: cpu`"
        )
    if device_type(wanted).type == "cpu":
        return CPU
    local, gpus = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if local >= gpus:
        raise UsageError(
            f"local rank {local} has no GPU, since torch sees {gpus}; start `torchrun "
            f"--nproc-per-node {gpus}`, or set `train.device: cpu`"
        )
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def move(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on `device`; to a GPU from pinned memory, so that nobody waits."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


# ---- random generators -------------------------------------------------------------------------


def random_states(device: torch.device, rank: int) -> dict[str, Tensor]:
    """States of the generators that a step may draw from, by their key in a checkpoint.

    The CPU's is the same on all ranks; each GPU has its own.
    """
    states = {"rng": torch.get_rng_state()}
    if device.type == "cuda":
        states[gpu_key(rank)] = torch.cuda.get_rng_state(device)
    return states


def gpu_key(rank: int) -> str:
    """Under which the generator of a rank's GPU is kept; only runs on GPUs have it."""
    return f"rng_cuda.{rank}"


def restore_random(states: Mapping[str, Any], device: torch.device, rank: int) -> None:
    """Set the generators to what `random_states` gave."""
    torch.set_rng_state(states["rng"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states[gpu_key(rank)], device)
