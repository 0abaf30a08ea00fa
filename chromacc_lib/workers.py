"""Workers: long runs side by side, one a core or a GPU of this machine, or on those of a dask scheduler."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import dask
import distributed
import torch

from chromacc_lib import cores
from chromacc_lib.regions import connect
from chromacc_lib.devices import choose_device

__all__ = ["ALONE", "gpu_of_worker", "side_by_side"]

# dask has its workers give back every freed block of more than 64 KiB, which a training allocates anew in each step: it
# took half as long again.
QUICK_FREE = {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 1 << 30}
ALONE = threading.Lock()  # a process has one torch generator: runs of its threads would disturb each other


@contextmanager
def side_by_side(address: str, workers: int | None, device: str, runs: int | None = None
                 ) -> Iterator[tuple[distributed.Client, int]]:  # fmt: skip
    """A client, and the threads of each run: of a scheduler, or of processes on this machine, one run each.

    address: of the scheduler, "" = this machine. workers: processes, None = one a GPU, or on CPUs one a core. device:
    as in `choose_device`. runs: how many there will be; no more processes are started. Raises ChromaccError for a
    scheduler that cannot be reached, or has no worker.
    """
    if address:
        with connect(address) as client:
            yield client, max(client.nthreads().values(), default=1)
        return
    workers = workers or (torch.cuda.device_count() if choose_device(device) == "cuda" else cores())
    workers = min(workers, runs or workers)
    with dask.config.set(QUICK_FREE), distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0", memory_limit=0
    ) as cluster, distributed.Client(cluster, set_as_default=False) as client:  # fmt: skip
        yield client, max(1, cores() // workers)


def gpu_of_worker(device: str) -> int | None:
    """The index of the GPU that the worker which calls this takes: they take turns. None = the first, or no GPU."""
    name = str(distributed.get_worker().name)
    return int(name) % torch.cuda.device_count() if choose_device(device) == "cuda" and name.isdigit() else None
