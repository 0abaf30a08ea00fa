"""Where to compute, and in which precision: a GPU or the CPU, chosen and said aloud; one process or several."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import torch
from lightning_fabric import Fabric

from chromacc_lib import ChromaccError

__all__ = ["PRECISIONS", "choose_device", "choose_precision", "device_words", "start_fabric"]

PRECISIONS = ("auto", "32-true", "bf16-mixed")


def choose_device(device: str = "auto") -> str:
    """Return "cuda" or "cpu". Raises `ChromaccError` when a GPU is asked for by name and none is there."""
    if device not in ("auto", "cpu", "cuda"):
        raise ChromaccError(f"device={device!r} is not known; allowed: 'auto', 'cpu', 'cuda'.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ChromaccError("device='cuda', but PyTorch finds no usable GPU here; set device='cpu' or 'auto'.")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def device_words(device: torch.device | str, root: Path = Path("/")) -> str:
    """The device in words; a CPU beside an NVIDIA GPU that PyTorch cannot use says so, and why. root: of /proc."""
    device = torch.device(device)
    if device.type == "cuda":
        return f"device: {torch.cuda.get_device_name(device)}"
    words = "device: CPU (no GPU is used)"
    if (root / "proc/driver/nvidia/version").exists() and not torch.cuda.is_available():
        why = "sees none: look at its driver, and at CUDA_VISIBLE_DEVICES" if torch.version.cuda else "is built without CUDA"
        words += f". NOTE: this machine has an NVIDIA GPU, but PyTorch {torch.__version__} {why}"
    return words


def choose_precision(precision: str, device: str) -> str:
    """Return "bf16-mixed" or "32-true" for "auto": bf16 on GPUs and CPUs whose hardware multiplies it, else float32.

    Of CPUs, those with AVX512-BF16 or AMX. Weights, sums of gradients and the loss stay float32 in either.
    """
    if precision != "auto":
        return precision
    if device == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported()
    else:
        has = torch.cpu.get_capabilities()
        has_bf16 = has.get("avx512_bf16", False) or has.get("amx_bf16", False)
    return "bf16-mixed" if has_bf16 else "32-true"


def start_fabric(device: str = "auto", precision: str = "auto", index: int | None = None) -> Fabric:
    """Join the processes that train together: those that torchrun started, on one or several machines; else one alone.

    They share each batch by DistributedDataParallel, over NCCL on GPUs and gloo on CPUs. index: of the GPU that a
    process alone takes, None = the first. On GPUs, convolutions are those that give the same sums each time.
    """
    accelerator = choose_device(device)
    if accelerator == "cuda":
        torch.backends.cudnn.deterministic = True  # else the gradients of float32 differ in their last bits
    together = "TORCHELASTIC_RUN_ID" in os.environ  # set by torchrun, with the two below
    world, here = (int(os.environ[name]) if together else 1 for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # what was chosen is said once, by `fit`
    fabric = Fabric(
        accelerator=accelerator, devices=here if index is None else [index], num_nodes=world // here,
        strategy="ddp" if world > 1 else "auto",
        precision=choose_precision(precision, accelerator),
    )  # fmt: skip
    fabric.launch()
    return fabric
