"""How many windows a batch may have: the bytes that one takes in training, beside the memory that is there."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from chromacc_lib.batches import RegionData, Target
from chromacc_lib.dataset import Arrays
from chromacc_lib.model import Batch
from chromacc_lib.objectives import Objective
from chromacc_lib.streaming import StreamedRegionData
from chromacc_lib.training import TrainingConfig, build_model

__all__ = ["MOST_WINDOWS", "FittingBatch", "available_memory", "fitting_batch", "saved_bytes"]

MOST_WINDOWS = 256  # a batch has no more: the learning rates that were tried go with far smaller ones
SHARE = 0.5  # of what is available: a step's peak was measured at 1.6 times what autograd saves (CPU, default sizes)
COPIES = 6  # of the weights: themselves, gradients, two moments, their average, the best so far
TRIED_WINDOWS = 4  # of the batch that is measured


class FittingBatch(NamedTuple):
    """How many windows a batch gets (all processes together), and why, in words."""

    windows: int
    words: str


def fitting_batch(
    arrays: Arrays, data: RegionData | StreamedRegionData, config: TrainingConfig, sizes: dict, fabric: Fabric
) -> FittingBatch:
    """Choose the largest power of two of windows, at least 1 and at most MOST_WINDOWS, that fits in memory.

    One small batch is run; what autograd saves of it for the backward pass, and the batch itself twice (one is prepared
    ahead), is what a window takes. Every process that trains together calls this; the smallest answer counts for all.
    With streamed data a batch has at most half a pool.
    """
    model, _ = build_model(arrays, motif_prior=False, sizes=sizes)
    windows = np.flatnonzero(arrays.windows["split"].to_numpy() == "train")[:TRIED_WINDOWS]
    cells = np.flatnonzero(arrays.train_mask)[: config.cells_per_window]
    batch, target = (read(windows, cells) for read in (data.batch, data.target))
    device = fabric.device
    batch, target = batch.to(device), Target(*(t.to(device) for t in vars(target).values()))
    with fabric.autocast():
        saved = saved_bytes(model.to(device).train(), config.objective(0.5), batch, target)
    held = 2 * sum(tensor.nbytes for part in (batch, target) for tensor in vars(part).values())
    window_bytes = (saved + held) / len(windows)
    free, source = available_memory(device)
    if device.type == "cpu":
        free = (free - data.still_to_read()) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    weights = COPIES * sum(p.nbytes for p in model.parameters())
    fits = max(0, int((SHARE * free - weights) / window_bytes))
    if fabric.world_size > 1:
        answers: list = [None] * fabric.world_size
        torch.distributed.all_gather_object(answers, fits)
        fits = min(answers)
    most = min(MOST_WINDOWS, config.stream_windows // 2 or MOST_WINDOWS)
    least = 1 if fabric.world_size == 1 else 2 ** math.ceil(math.log2(2 * fabric.world_size))  # what `train` needs
    chosen = max(least, 2 ** int(math.log2(min(max(fits * fabric.world_size, 1), most))))
    each = f" in each of {fabric.world_size} processes" if fabric.world_size > 1 else ""
    return FittingBatch(chosen, (
        f"batch_windows: {chosen}. A window takes {window_bytes / 1e6:,.2f} MB in {len(cells)} cell types; "
        f"{free / 1e9:,.2f} GB are available ({source}), {SHARE:.0%} of it fits {fits:,} windows{each}; the largest "
        f"power of two is taken, at most {most}"
    ))  # fmt: skip


def saved_bytes(model: nn.Module, objective: Objective, batch: Batch, target: Target) -> int:
    """Bytes that autograd saves in a forward pass for the backward pass, parameters and the batch itself left out.

    Tensors that share a storage count once.
    """
    known = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    known |= {tensor.untyped_storage().data_ptr() for part in (batch, target) for tensor in vars(part).values()}
    saved: dict[int, torch.UntypedStorage] = {}  # alive until the end, so that no address is used twice

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        """Note a tensor's storage, once, unless it was there before."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        loss, _ = objective(model(batch), batch, target)
    total = sum(storage.nbytes() for storage in saved.values())
    del loss
    return total


def available_memory(device: torch.device, root: Path = Path("/")) -> tuple[int, str]:
    """Bytes that are free for this process, and where the number comes from; root: of /proc and /sys.

    On a GPU: its free memory. Else the kernel's estimate (MemAvailable) or the cgroup's limit less what it uses,
    whichever is smaller; where there is neither (macOS), half of the physical memory.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0], "free on the GPU"
    found = _cgroup_limits(root)
    meminfo = root / "proc/meminfo"
    if meminfo.is_file():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        found.append((int(lines["MemAvailable"].split()[0]) * 1024, "available on this machine"))
    if not found:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2, "half of the physical memory"
    return min(found)


def _cgroup_limits(root: Path) -> list[tuple[int, str]]:
    """What is left below each limit of this process's cgroup and those around it (version 2, then 1)."""
    found = []
    names = root / "proc/self/cgroup"
    groups = [line.split(":", 2)[1:] for line in names.read_text().splitlines()] if names.is_file() else []
    for controllers, path in groups:
        if controllers not in ("", "memory"):
            continue
        top = root / ("sys/fs/cgroup" if controllers == "" else "sys/fs/cgroup/memory")
        limit, usage = ("memory.max", "memory.current") if controllers == "" else (
            "memory.limit_in_bytes", "memory.usage_in_bytes")  # fmt: skip
        here = top / path.strip("/")
        for folder in (here, *here.parents):
            if not folder.is_relative_to(top):
                break
            if (folder / limit).is_file() and (text := (folder / limit).read_text().strip()) != "max":
                found.append((max(0, int(text) - _used(folder, usage)), "left below the cgroup's limit"))
    return found


def _used(folder: Path, usage: str) -> int:
    """Bytes that a cgroup uses, without file pages that the kernel would give up at once."""
    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    idle = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
    return max(0, int((folder / usage).read_text()) - idle)
