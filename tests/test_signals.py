"""Binned signals: exact by hand, equal to pyBigWig's own exact statistics, and missing where nothing was
measured.
"""

import numpy as np
import pandas as pd
import pyBigWig
import pytest
from conftest import write_bigwig

from chromacc_lib import ChromaccError
from chromacc_lib import bigwig as bigwig_module
from chromacc_lib.bigwig import open_bigwig
from chromacc_lib.signals import (
    bin_edges, binned_signal, binned_signals, chroms_with_data, genome_mean, read_signal,
    window_mean, window_statistics,
)
from chromacc_lib.sources import LocalFile

SIZES = {"chr1": 50_000, "chr2": 20_000, "chr3": 1_000}


def windows_at(*rows: tuple[str, int], length: int = 100) -> pd.DataFrame:
    return pd.DataFrame([(c, s, s + length) for c, s in rows], columns=["chrom", "start", "end"])


@pytest.fixture
def random_track(tmp_path):
    """Intervals of random width and value with gaps, on chr1 and chr2; nothing on chr3."""
    rng = np.random.default_rng(0)
    intervals = {}
    for chrom in ("chr1", "chr2"):
        cuts = np.unique(rng.integers(0, SIZES[chrom], 1500))
        rows = [(int(a), int(b), float(v))
                for a, b, v in zip(cuts[:-1], cuts[1:], rng.gamma(1, 3, len(cuts)))]
        intervals[chrom] = [row for row in rows if rng.random() < 0.8]
    return write_bigwig(tmp_path / "random.bw", SIZES, intervals)


def test_by_hand(tmp_path):
    path = write_bigwig(tmp_path / "x.bw", SIZES, {"chr1": [(0, 5, 2.0), (10, 12, 4.0), (30, 40, 1.0)]})
    got = binned_signal(path, windows_at(("chr1", 0), ("chr1", 20), length=20), 2)
    assert got.dtype == np.float32 and got.shape == (2, 2, 3)
    # bases 0..10: five of 2, five of 0; 10..20: two of 4, eight of 0; 20..30: nothing; 30..40: ones
    assert got[0].tolist() == [[1.0, 1.0, 2.0], [np.float32(0.8), np.float32(2.56), 4.0]]
    assert got[1].tolist() == [[0.0, 0.0, 0.0], [1.0, 0.0, 1.0]]


@pytest.mark.parametrize("n", [2727, 2728, 2729, 5456])
def test_an_empty_block_behind_a_full_one_is_no_fault(tmp_path, n):
    sizes = {"chr1": 100_000, "chr2": 100_000}  # 2,728 intervals fill a block of pyBigWig's
    rows = [(10 * i, 10 * i + 5, 1.0) for i in range(n)]
    path = write_bigwig(tmp_path / "full.bw", sizes, {"chr1": rows, "chr2": rows})
    got = binned_signal(path, windows_at(("chr1", 0), ("chr2", 0), length=10 * n), 1)
    assert got.tolist() == [[[0.5, 0.25, 1.0]]] * 2


def test_bin_edges_are_floored():
    assert bin_edges(10, 3).tolist() == [0, 3, 6, 10]
    assert bin_edges(1500, 16)[:4].tolist() == [0, 93, 187, 281]
    assert bin_edges(1500, 16)[-1] == 1500
    for bad in (0, 11):
        with pytest.raises(ChromaccError, match=f"n_bins: got {bad}, needed from 1 to the window's 10"):
            bin_edges(10, bad)


@pytest.mark.parametrize("n_bins", [1, 4, 15, 16])
def test_equal_to_pybigwig_exact(random_track, n_bins):
    rng = np.random.default_rng(1)
    length = 1500
    windows = windows_at(
        *((c, int(s)) for c in ("chr1", "chr2") for s in rng.integers(0, SIZES[c] - length, 25)),
        length=length)
    got = binned_signal(random_track, windows, n_bins)
    edges = bin_edges(length, n_bins)
    with pyBigWig.open(str(random_track)) as bigwig:
        for row, (chrom, start) in enumerate(zip(windows["chrom"], windows["start"])):
            for b, (first, last) in enumerate(zip(start + edges[:-1], start + edges[1:])):
                first, last = int(first), int(last)
                n = last - first
                covered = round((bigwig.stats(chrom, first, last, type="coverage", exact=True)[0] or 0) * n)
                mean = bigwig.stats(chrom, first, last, type="mean", exact=True)[0] or 0.0  # of covered bases
                std = bigwig.stats(chrom, first, last, type="std",
                                   exact=True)[0] or 0.0  # sample sd of covered bases
                top = bigwig.stats(chrom, first, last, type="max", exact=True)[0] or 0.0
                squares = std**2 * max(covered - 1, 0) + covered * mean**2
                all_mean = mean * covered / n
                np.testing.assert_allclose(got[row, b], [all_mean, squares / n - all_mean**2, top],
                                           rtol=2e-5,
                                           atol=1e-4)


def test_equal_to_values_base_by_base_in_any_order_and_chunking(random_track, monkeypatch):
    rng = np.random.default_rng(2)
    windows = windows_at(*(("chr1", int(s)) for s in rng.integers(0, 48_000, 40)), ("chr2", 0),
                         ("chr2", 18_500),
                         length=1500)
    with pyBigWig.open(str(random_track)) as bigwig:
        raw = np.stack(
            [np.nan_to_num(bigwig.values(c, s, e, numpy=True)) for c, s, e in windows.to_numpy().tolist()])
    binned = raw.astype(np.float64).reshape(len(raw), 15, 100)
    expected = np.stack([binned.mean(axis=2), binned.var(axis=2), binned.max(axis=2)], axis=2)
    got = binned_signal(random_track, windows, 15)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)
    order = rng.permutation(len(windows))
    assert np.array_equal(binned_signal(random_track, windows.iloc[order], 15), got[order])
    for most, gap, at_once in ((1, 0, 1), (5_000, 100, 7), (10**7, 10**7, 10**6)):
        monkeypatch.setattr(bigwig_module, "WINDOWS_AT_ONCE", at_once)
        monkeypatch.setattr(bigwig_module, "READ_BYTES", most)
        monkeypatch.setattr(LocalFile, "gap", gap)
        assert np.array_equal(binned_signal(random_track, windows, 15), got)


def test_a_constant_track_has_no_variance_also_far_from_zero(tmp_path):
    path = write_bigwig(tmp_path / "x.bw", SIZES, {"chr1": [(0, 50_000, 123456.789)]})
    got = binned_signal(path, windows_at(("chr1", 7), length=1500), 16)
    assert np.all(got[0, :, 0] == np.float32(123456.789)) and np.all(got[0, :, 1] < 1e-12)


def test_a_chromosome_without_data_is_missing_and_uncovered_bases_are_zero(random_track, tmp_path):
    got = binned_signal(random_track, windows_at(("chr3", 0), ("chr1", 0), ("chr9", 0)), 5)
    assert np.isnan(got[0]).all() and np.isfinite(got[1]).all() and np.isnan(got[2]).all()
    assert chroms_with_data(random_track) == ("chr1", "chr2")
    far = write_bigwig(tmp_path / "far.bw", SIZES, {"chr1": [(40_000, 40_010, 5.0)]})
    assert (binned_signal(far, windows_at(("chr1", 0)), 5) == 0).all()


def test_chroms_with_data_agrees_with_the_intervals(random_track):
    with pyBigWig.open(str(random_track)) as bigwig:
        assert chroms_with_data(random_track) == tuple(c for c in bigwig.chroms() if bigwig.intervals(c))


def test_genome_mean_counts_chromosomes_with_data_only(tmp_path):
    path = write_bigwig(tmp_path / "x.bw", SIZES, {"chr2": [(0, 100, 2.5), (200, 300, 0.5)]})
    assert genome_mean(path) == (100 * 2.5 + 100 * 0.5) / 20_000
    zero = write_bigwig(tmp_path / "zero.bw", SIZES, {"chr2": [(0, 100, 0.0)]})
    with pytest.raises(ChromaccError, match="zero.bw: genome-wide mean is 0; needed above 0"):
        genome_mean(zero)


def test_windows_outside_the_file_are_refused_by_name(random_track):
    with pytest.raises(ChromaccError, match="random.bw: 1 window.s. reach outside chr2 of 20,000 bp"):
        binned_signal(random_track, windows_at(("chr2", 19_950)), 5)


def test_a_damaged_block_is_named(tmp_path, random_track):
    data = bytearray(random_track.read_bytes())
    with open_bigwig(random_track) as bigwig:
        first = int(bigwig.blocks()["offset"][0])
    data[first:first + 200] = b"\xff" * 200
    broken = tmp_path / "broken.bw"
    broken.write_bytes(data)
    with pytest.raises(ChromaccError, match="broken.bw: corrupt data of chr1.*Fetch the file again"):
        binned_signal(broken, windows_at(("chr1", 100), length=1500), 5)


def test_a_chromosome_that_fills_its_blocks_to_the_last_is_sound(tmp_path):
    """libBigWig then writes an empty block more, of no interval; 2,728 fill one."""
    for n in (2727, 2728, 2729):
        rows = [(10 * i, 10 * i + 5, 2.0) for i in range(n)]
        path = write_bigwig(tmp_path / f"{n}.bw", SIZES, {"chr1": rows, "chr2": [(0, 9, 1.0)]})
        last = 10 * (n - 1)
        got = binned_signal(path, windows_at(("chr1", last - 10), ("chr1", last + 10), ("chr2", 0), length=20), 1)
        assert got[:, 0, 0].tolist() == [1.0, 0.0, np.float32(0.45)]


def test_window_statistics_by_hand():
    bases = np.array([1.0, 3.0, 5.0, 5.0, 9.0, 1.0, 4.0])  # bins of 2, 2 and 3
    edges = bin_edges(7, 3)
    parts = [bases[a:b] for a, b in zip(edges[:-1], edges[1:])]
    bins = np.array([[part.mean(), part.var(), part.max()] for part in parts])
    got = window_statistics(np.stack([bins, np.full_like(bins, np.nan)]), 7)
    np.testing.assert_allclose(got[0], [bases.mean(), bases.var(), 9.0], rtol=1e-6)
    assert np.isnan(got[1]).all() and got.dtype == np.float32


def test_window_mean_weights_uneven_bins():
    values = np.arange(10.0)
    edges = bin_edges(10, 3)
    means = np.array([values[a:b].mean() for a, b in zip(edges[:-1], edges[1:])])
    assert window_mean(means, 10) == pytest.approx(values.mean())


def test_workers_change_nothing(random_track, tmp_path):
    other = write_bigwig(tmp_path / "other.bw", SIZES, {"chr1": [(0, 500, 3.0)]})
    windows = windows_at(("chr1", 0), ("chr2", 300), ("chr1", 400))
    paths = [random_track, other, random_track]
    alone, pooled = binned_signals(paths, windows, 5, workers=1), binned_signals(paths, windows, 5, workers=2)
    for one, other in zip(alone, pooled, strict=True):
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(one, other))
    assert np.array_equal(alone[0].values, alone[2].values, equal_nan=True)
    assert not np.array_equal(alone[0].values, alone[1].values, equal_nan=True)


def test_how_much_had_data_is_kept(tmp_path):
    path = write_bigwig(tmp_path / "x.bw", SIZES, {"chr1": [(0, 5, 2.0), (10, 12, 4.0), (30, 40, 0.0)]})
    signal = read_signal(path, windows_at(("chr1", 0), ("chr1", 20), ("chr3", 0), length=20), 2)
    assert signal.covered.tolist() == [[0.5, np.float32(0.2)], [0.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize("how", ["fixed", "variable"])
def test_steps_of_one_span_are_read_like_intervals(tmp_path, how):
    values = np.random.default_rng(3).gamma(1, 3, 300)
    starts = np.arange(300) * 20 + 7 if how == "fixed" else np.sort(
        np.random.default_rng(4).choice(6_000, 300, replace=False)) * 8
    path = tmp_path / "steps.bw"
    with pyBigWig.open(str(path), "w") as bigwig:
        bigwig.addHeader(list(SIZES.items()))
        if how == "fixed":
            bigwig.addEntries("chr1", 7, values=values, span=5, step=20)
        else:
            bigwig.addEntries("chr1", starts.tolist(), values=values, span=5)
    windows = windows_at(("chr1", 0), ("chr1", 411), ("chr1", 3_000), length=1500)
    base = np.zeros(SIZES["chr1"])
    for start, value in zip(starts, values.astype(np.float32)):
        base[start:start + 5] = value
    expected = np.stack([base[s:s + 1500].reshape(15, 100) for s in windows["start"]])
    got = binned_signal(path, windows, 15)
    np.testing.assert_allclose(got[:, :, 0], expected.mean(axis=2), rtol=1e-6)
    np.testing.assert_allclose(got[:, :, 1], expected.var(axis=2), rtol=1e-6)
    assert np.array_equal(got[:, :, 2], expected.max(axis=2).astype(np.float32))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("by", ["libdeflate", "zlib"])
def test_values_that_are_no_numbers_are_refused_by_place(tmp_path, monkeypatch, value, by):
    path = write_bigwig(tmp_path / "x.bw", SIZES, {"chr1": [(0, 50, 1.0), (200, 250, value)]})
    if by == "zlib":
        monkeypatch.setattr(bigwig_module, "_libdeflate", lambda: None)
    assert binned_signal(path, windows_at(("chr1", 0)), 5)[0, 0, 0] == 1  # not under this window
    with pytest.raises(ChromaccError, match="x.bw: values of chr1 that are no finite numbers.*Write the file again"):
        binned_signal(path, windows_at(("chr1", 0), ("chr1", 150)), 5)


def test_an_index_that_names_another_chromosome_is_an_error(tmp_path, random_track):
    with open_bigwig(random_track) as bigwig:
        at = bigwig.index_offset + 48 + 4  # the root's first entry: start_chrom, start, end_chrom, end
    data = bytearray(random_track.read_bytes())
    data[at + 8:at + 12] = (99).to_bytes(4, "little")
    broken = tmp_path / "broken.bw"
    broken.write_bytes(data)
    with pytest.raises(ChromaccError, match="broken.bw: truncated or corrupt bigWig"):
        chroms_with_data(broken)


def test_python_s_zlib_gives_the_same_as_libdeflate(random_track, monkeypatch):
    windows = windows_at(("chr1", 5), ("chr1", 9_000), ("chr2", 300), length=1500)
    assert bigwig_module.inflater() == "libdeflate", "this platform's build of `deflate` hides its functions"
    fast = binned_signal(random_track, windows, 16)
    monkeypatch.setattr(bigwig_module, "_libdeflate", lambda: None)
    assert bigwig_module.inflater() == "zlib"
    assert np.array_equal(binned_signal(random_track, windows, 16), fast)


def test_an_index_of_several_levels_leads_to_the_same_blocks(tmp_path):
    rows = [(10 * i, 10 * i + 7, float(i % 11 + 1)) for i in range(90_000)]  # one call an interval: small blocks
    path = tmp_path / "deep.bw"
    with pyBigWig.open(str(path), "w") as bigwig:
        bigwig.addHeader([("chr1", 1_000_000), ("chr2", 1_000_000)])
        for chrom in ("chr1", "chr2"):
            for first in range(0, len(rows), 60):
                starts, ends, values = zip(*rows[first:first + 60])
                bigwig.addEntries([chrom] * len(starts), list(starts), ends=list(ends), values=list(values))
    with open_bigwig(path) as bigwig:
        everything = bigwig.blocks()
        here = bigwig.blocks("chr2", np.array([5_000, 600_000]), np.array([6_500, 601_500]))
        assert bigwig.chroms_with_data() == ("chr1", "chr2")
    overlapping = [((b["start"] < e) & (b["end"] > s)) for b in everything for s, e in
                   ((5_000, 6_500), (600_000, 601_500)) if b["start_chrom"] <= 1 <= b["end_chrom"]]
    assert len(everything) > 2 and len(here) == sum(map(bool, overlapping))
    base = np.tile(np.r_[np.ones(7), np.zeros(3)], 150) * np.repeat([(i % 11 + 1) for i in range(500, 650)], 10)
    got = binned_signal(path, windows_at(("chr2", 5_000), length=1500), 15)[0]
    np.testing.assert_allclose(got[:, 0], base.reshape(15, 100).mean(axis=1), rtol=1e-6)


def test_an_index_of_zeros_is_no_file_without_data(tmp_path, random_track):
    data = bytearray(random_track.read_bytes())
    with open_bigwig(random_track) as bigwig:
        root = bigwig.index_offset + 48
    data[root:root + 4] = bytes(4)
    (tmp_path / "holes.bw").write_bytes(data)
    with open_bigwig(tmp_path / "holes.bw") as bigwig:
        with pytest.raises(ChromaccError, match="truncated or corrupt bigWig"):
            bigwig.chroms_with_data()


def test_a_worker_s_error_keeps_its_message(random_track, tmp_path):
    with pytest.raises(ChromaccError, match="nowhere.bw: missing file"):
        binned_signals([random_track, tmp_path / "nowhere.bw"], windows_at(("chr1", 0)), 5, workers=2)
