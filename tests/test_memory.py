"""How many windows fit: bytes saved for the backward pass, memory that is there, and what is made of the two."""

import re
from dataclasses import replace

import pytest
import torch
from test_training import CONFIG, SIZES
from torch import nn

from chromacc_lib import memory
from chromacc_lib.batches import RegionData, Target
from chromacc_lib.dataset import load_arrays
from chromacc_lib.memory import available_memory, fitting_batch, saved_bytes
from chromacc_lib.model import Batch
from chromacc_lib.devices import start_fabric

CPU = torch.device("cpu")
GB = 10**9


@pytest.fixture(scope="module")
def arrays(curated):
    return load_arrays(curated[1])


@pytest.fixture(scope="module")
def fabric():
    return start_fabric("cpu")


class ExpTwice(nn.Module):
    """exp saves its result and nothing else; of the parameter it makes a copy that counts, the parameter does not."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1000))

    def forward(self, batch):
        return (self.weight.exp() * self.weight).exp()


def test_saved_bytes_by_hand():
    empty = {name: torch.zeros(1) for name in Batch.__dataclass_fields__}
    target = Target(*(torch.zeros(1) for _ in range(3)))
    got = saved_bytes(ExpTwice(), lambda output, batch, target: (output.sum(), {}), Batch(**empty), target)
    assert got == 2 * 4000  # exp(w), saved by the first exp and by the product, once; and the result of the second


def test_saved_bytes_grow_with_the_batch(arrays):
    data, found = RegionData(arrays), {}
    model, _ = memory.build_model(arrays, False, SIZES)
    for n in (4, 8, 16):
        windows, cells = memory.np.arange(n), memory.np.arange(3)
        found[n] = saved_bytes(model.train(), CONFIG.objective(0.5), data.batch(windows, cells), data.target(windows, cells))
    assert found[16] - found[8] == pytest.approx(2 * (found[8] - found[4]), rel=0.02)
    assert found[8] == pytest.approx(2 * found[4], rel=0.1)


def chosen(monkeypatch, arrays, fabric, free, config=CONFIG):
    monkeypatch.setattr(memory, "available_memory", lambda device: (int(free), "by this test"))
    return fitting_batch(arrays, RegionData(arrays), config, SIZES, fabric)


def test_a_power_of_two_never_more_than_fits_and_it_is_said_why(monkeypatch, arrays, fabric):
    words = chosen(monkeypatch, arrays, fabric, GB).words
    window = 1e6 * float(re.search(r"A window takes ([\d.,]+) MB", words)[1])
    sizes = [chosen(monkeypatch, arrays, fabric, 2 * (1e6 * 0.5 + n * window)).windows for n in (10, 20, 40, 80)]
    assert all(n & (n - 1) == 0 for n in sizes) and sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert sizes[-1] == pytest.approx(2 * sizes[-2], rel=0) and sizes[0] <= 16
    assert "by this test" in words and "50% of it" in words and "power of two" in words


def test_never_below_one_nor_above_the_cap(monkeypatch, arrays, fabric):
    assert chosen(monkeypatch, arrays, fabric, 0).windows == 1
    assert chosen(monkeypatch, arrays, fabric, 1e15).windows == memory.MOST_WINDOWS
    pools = replace(CONFIG, batch_windows=0, stream_windows=100)
    assert chosen(monkeypatch, arrays, fabric, 1e15, pools).windows == 32  # at most half a pool: 50


def lay(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


MEMINFO = {"proc/meminfo": "MemTotal: 8000000 kB\nMemAvailable:    6000000 kB\n"}


def test_available_memory_of_a_machine_without_limits(tmp_path):
    assert available_memory(CPU, lay(tmp_path, MEMINFO)) == (6_000_000 * 1024, "available on this machine")


def test_the_tightest_limit_of_the_cgroups_around_counts(tmp_path):
    lay(tmp_path, MEMINFO | {
        "proc/self/cgroup": "0::/outer/inner\n",
        "sys/fs/cgroup/outer/memory.max": f"{3 * GB}\n", "sys/fs/cgroup/outer/memory.current": f"{2 * GB}\n",
        "sys/fs/cgroup/outer/memory.stat": f"anon 5\ninactive_file {GB // 2}\n",
        "sys/fs/cgroup/outer/inner/memory.max": "max\n",
    })  # fmt: skip
    assert available_memory(CPU, tmp_path) == (3 * GB - 2 * GB + GB // 2, "left below the cgroup's limit")


def test_cgroups_of_version_1_and_no_knowledge_at_all(tmp_path):
    lay(tmp_path / "one", MEMINFO | {
        "proc/self/cgroup": "5:cpu:/x\n4:memory:/job\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{2 * GB}",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{GB}",
        "sys/fs/cgroup/memory/job/memory.stat": f"total_inactive_file {GB // 4}\n",
    })  # fmt: skip
    assert available_memory(CPU, tmp_path / "one")[0] == GB + GB // 4
    assert available_memory(CPU, tmp_path)[1] == "half of the physical memory"


def test_this_machine_has_memory():
    assert 10**7 < available_memory(CPU)[0] < 10**14
