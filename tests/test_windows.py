"""Windows, background, labels and splits: exact on tiny inputs, then what must always hold."""

import numpy as np
import pandas as pd
import pytest
from conftest import write_fasta, write_lines

from chromacc_lib import ChromaccError
from chromacc_lib.manifest import open_genome
from chromacc_lib.matching import match_gc
from chromacc_lib.windows import (
    background_windows,
    base_content,
    cap_windows,
    label_windows,
    leave_one_out_folds,
    observed_assays,
    peak_windows,
    read_peaks,
    sequence_codes,
    split_cell_types,
    split_chromosomes,
    tiled_windows,
)


def table(*rows: tuple, columns: str = "chrom start end") -> pd.DataFrame:
    return pd.DataFrame(rows, columns=columns.split())


def peaks_at(*rows: tuple[str, int, float], width: int = 20) -> pd.DataFrame:
    """Peaks with a summit in their middle: (chrom, summit, strength)."""
    return table(*((c, s - width // 2, s + width // 2, v, s) for c, s, v in rows),
                 columns="chrom start end strength summit")


@pytest.fixture
def genome(tmp_path):
    """Two chromosomes of 1,000 bp: chr1 all AC but for Ns at 400..500, chr2 all A."""
    chr1 = "AC" * 500
    return write_fasta(tmp_path / "g.fa", {"chr1": chr1[:400] + "N" * 100 + chr1[500:], "chr2": "A" * 1000})


# --- sequence -----------------------------------------------------------------------------------------------
def test_codes_by_hand_in_any_order(tmp_path):
    fasta = write_fasta(tmp_path / "g.fa", {"chr1": "ACGTNacgtR", "chr2": "TTTTGGGG"})
    windows = table(("chr2", 2, 6), ("chr1", 0, 4), ("chr1", 6, 10), ("chr1", 2, 6))
    with open_genome(fasta) as opened:
        codes = sequence_codes(opened, windows)
        content = base_content(opened, windows)
    assert codes.dtype == np.uint8
    assert codes.tolist() == [[3, 3, 2, 2], [0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 0]]
    assert content["gc"].tolist() == pytest.approx([0.5, 0.5, 2 / 3, 1 / 3])
    assert content["n_fraction"].tolist() == [0, 0, 0.25, 0.25]


def test_windows_outside_the_genome_or_of_two_lengths_are_refused(genome):
    with open_genome(genome) as opened:
        for bad in (("chr1", 950, 1050), ("chr1", -10, 90), ("chr9", 0, 100)):
            with pytest.raises(ChromaccError, match="reach outside the FASTA"):
                sequence_codes(opened, table(bad))
        with pytest.raises(ChromaccError, match="one length"):
            sequence_codes(opened, table(("chr1", 0, 10), ("chr1", 0, 20)))


# --- peaks to windows ---------------------------------------------------------------------------------------
def test_read_peaks_sorts_and_raises_with_every_fault(tmp_path):
    path = write_lines(tmp_path / "p.bed", "chr2\t5\t9", "chr1\t50\t60", "chr1\t10\t20")
    assert read_peaks(path)[["chrom", "start"]].to_numpy().tolist() == [["chr1", 10], ["chr1", 50],
                                                                        ["chr2", 5]]
    bad = write_lines(tmp_path / "bad.bed", "chr1\t9\t5", "chr1\t7\t7")
    with pytest.raises(ChromaccError, match="(?s)2 problem.*starts exceed ends.*zero-length"):
        read_peaks(bad)


def test_the_strongest_summit_takes_its_window(genome):
    # within A the order is 250 (rank 1) > 200 > 650; B's only peak has rank 1 too, and overlaps no other
    peaks = {"A": peaks_at(("chr1", 200, 5.0), ("chr1", 250, 9.0), ("chr1", 650, 1.0)),
             "B": peaks_at(("chr2", 500, 0.1))}
    selection = peak_windows(peaks, genome, window_bp=100, max_n_fraction=0)
    windows = selection.windows
    assert windows[["chrom", "start", "end"]].to_numpy().tolist() == [
        ["chr1", 200, 300], ["chr1", 600, 700], ["chr2", 450, 550]]
    assert windows["gc"].tolist() == [0.5, 0.5, 0.0]
    assert [(c.kept, c.of) for c in selection.counts] == [(4, 4), (4, 4), (3, 4)]


def test_windows_that_only_touch_are_both_kept(genome):
    windows = peak_windows({
        "A": peaks_at(("chr1", 150, 1.0), ("chr1", 250, 2.0))
    }, genome, window_bp=100).windows
    assert windows["start"].tolist() == [100, 200]
    windows = peak_windows({
        "A": peaks_at(("chr1", 151, 1.0), ("chr1", 250, 2.0))
    }, genome, window_bp=100).windows
    assert windows["start"].tolist() == [200]


def test_edge_n_and_blacklist_filters_are_counted(genome):
    peaks = {"A": peaks_at(("chr1", 30, 1.0), ("chr1", 980, 1.0), ("chr1", 450, 1.0), ("chr1", 700, 1.0),
                           ("chr2", 300, 1.0))}
    blacklist = table(("chr1", 749, 760), ("chr2", 350, 400))  # shares 1 bp with 650..750, touches 250..350
    selection = peak_windows(peaks, genome, blacklist, window_bp=100, max_n_fraction=0.05)
    assert [(c.kept, c.of) for c in selection.counts] == [(3, 5), (2, 3), (1, 2), (1, 1)]
    assert selection.windows[["chrom", "start"]].to_numpy().tolist() == [["chr2", 250]]
    assert "kept 3 of 5, because" in str(selection.counts[0])


def test_a_filtered_summit_does_not_shadow_its_neighbour(genome):
    peaks = {"A": peaks_at(("chr1", 370, 9.0), ("chr1", 340, 1.0))}  # the stronger window holds 20 N
    assert peak_windows(peaks, genome, window_bp=100, max_n_fraction=0).windows["start"].tolist() == [290]


def test_no_window_left_is_an_error_that_says_why(genome):
    with pytest.raises(ChromaccError, match="no window is left of 1 peak summits.*within its chromosome"):
        peak_windows({"A": peaks_at(("chr1", 10, 1.0))}, genome, window_bp=100)


def test_row_order_does_not_matter(genome):
    rng = np.random.default_rng(3)
    peaks = peaks_at(*(("chr1", int(s), float(v))
                       for s, v in zip(rng.integers(20, 980, 60), rng.integers(1, 5, 60))))
    first = peak_windows({"A": peaks}, genome, window_bp=50).windows
    again = peak_windows({"A": peaks.sample(frac=1, random_state=1)}, genome, window_bp=50).windows
    assert first.equals(again) and (first["start"].diff().dropna() >= 50).all()


def test_cap_is_random_by_seed_and_counted():
    windows = table(*(("chr1", i * 10, i * 10 + 10) for i in range(100)))
    one, other = cap_windows(windows, 10, seed=1), cap_windows(windows, 10, seed=2)
    assert len(one.windows) == 10 and one.windows["start"].is_monotonic_increasing
    assert (one.counts[0].kept, one.counts[0].of) == (10, 100)
    assert one.windows.equals(cap_windows(windows, 10,
                                          seed=1).windows) and not one.windows.equals(other.windows)
    assert cap_windows(windows, 0, seed=1).windows.equals(windows) and cap_windows(windows, 0,
                                                                                   seed=1).counts == []


# --- background ---------------------------------------------------------------------------------------------
def test_gc_match_by_hand():
    chosen = match_gc(np.array([0.5]), np.array([0.1, 0.49, 0.9]), seed=1, max_difference=0.02)
    assert chosen.tolist() == [1]
    assert match_gc(np.array([0.5]), np.array([0.1, 0.9]), seed=1, max_difference=0.02).tolist() == [-1]
    assert match_gc(np.array([0.5]), np.array([]), seed=1, max_difference=0.02).tolist() == [-1]
    both = match_gc(np.array([0.5, 0.5, 0.5]), np.array([0.49, 0.51]), seed=1, max_difference=0.02)
    assert sorted(both.tolist()) == [-1, 0, 1]  # each candidate once


def test_gc_match_is_always_the_nearest_unused_candidate():
    rng = np.random.default_rng(0)
    for trial in range(20):
        target, pool = rng.random(30), rng.random(60)
        chosen = match_gc(target, pool, seed=trial, max_difference=0.05)
        used = chosen[chosen >= 0]
        assert len(set(used.tolist())) == len(used)
        free = np.setdiff1d(np.arange(60), used)
        for gc, pick in zip(target, chosen):
            nearest_free = np.abs(pool[free] - gc).min()
            # whatever was still free at the end was free when this target was served
            assert (abs(pool[pick] - gc) <= nearest_free) if pick >= 0 else nearest_free > 0.05


@pytest.fixture
def patchy(tmp_path):
    """Three chromosomes of 40 kb in patches of 500 bp, GC from 20 to 80%."""
    rng = np.random.default_rng(5)
    sequences = {}
    for chrom in ("chr1", "chr2", "chr3"):
        patches = [rng.choice(list("ACGT"), 500, p=[(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2])
                   for gc in rng.uniform(0.2, 0.8, 80)]
        sequences[chrom] = "".join(np.concatenate(patches))
    return write_fasta(tmp_path / "patchy.fa", sequences)


def test_background_is_off_every_peak_matched_and_within_its_split(patchy):
    rng = np.random.default_rng(1)
    peaks = {
        "A": peaks_at(
            *((c, int(s), 1.0) for c in ("chr1", "chr2", "chr3") for s in rng.integers(500, 39_500, 15)),
            width=300)
    }
    blacklist = table(("chr1", 0, 5_000))
    positives = peak_windows(peaks, patchy, blacklist, window_bp=200).windows
    positives["split"] = positives["chrom"].map({"chr1": "train", "chr2": "validation", "chr3": "test"})
    selection = background_windows(positives, peaks, patchy, blacklist, seed=1)
    windows = selection.windows
    for busy in (peaks["A"], positives, blacklist):
        for _, row in busy.iterrows():
            overlap = (windows["chrom"] == row["chrom"]) & (windows["start"] < row["end"]) & (windows["end"]
                                                                                              > row["start"])
            assert not overlap.any()
    assert not windows.duplicated(["chrom", "start"]).any() and (windows["end"] - windows["start"]
                                                                 == 200).all()
    assert windows["split"].equals(windows["chrom"].map({
        "chr1": "train",
        "chr2": "validation",
        "chr3": "test"
    }))
    for split, covariates in selection.match.items():
        (match,) = covariates.values()
        assert match["matched"] == (windows["split"] == split).sum() <= match["wanted"]
        assert match["ks_matched"] < 0.2 and match["matched"] > 0.5 * match["wanted"]
        drawn = match["histogram"]
        assert sum(drawn["peaks"]) == match["wanted"] and sum(drawn["background"]) == match["matched"]
        assert match["matched_on"] and match["unmatched"] == match["wanted"] - match["matched"]
    assert windows.equals(background_windows(positives, peaks, patchy, blacklist, seed=1).windows)
    assert not windows.equals(background_windows(positives, peaks, patchy, blacklist, seed=2).windows)


@pytest.mark.parametrize("placement, expected", [
    ("summits", ["7 of 8, because no base may lie in the blacklist",  # so many tiles fit beside it, and without it
                 "7 of 7, because a window must lie within its chromosome",
                 "6 of 7, because at most 5% of the bases may be N"]),
    ("tiled", ["9 of 11, because a tile may touch no training peak or peak window",
               "8 of 9, because a window must lie within its chromosome",
               "7 of 8, because no base may lie in the blacklist",
               "6 of 7, because at most 5% of the bases may be N"]),
])
def test_every_candidate_that_is_left_out_is_counted_by_what_left_it_out(tmp_path, placement, expected):
    """Of 1,050 bp, 0..200 are peak windows of 100 bp, 200..300 is blacklisted, and 400..500 is an assembly gap."""
    genome = write_fasta(tmp_path / "g.fa", {"chr1": "AC" * 200 + "N" * 100 + "AC" * 275})
    positives = table(("chr1", 0, 100), ("chr1", 100, 200)).assign(gc=0.5, split="train")
    selection = background_windows(positives, {}, genome, table(("chr1", 200, 300)), placement=placement)
    *counts, last = selection.counts
    assert [str(count) for count in counts] == [f"background candidates: kept {line}" for line in expected]
    assert selection.match["train"]["gc"]["candidates"] == 6 and (last.kept, last.of) == (2, 2)


def test_the_number_of_background_windows_follows_the_ratio(patchy):
    positives = table(("chr1", 1000, 1100), ("chr1", 2000, 2100), ("chr1", 3000, 3100), ("chr1", 4000, 4100))
    positives = positives.assign(gc=0.5, split="train")
    for ratio, wanted in ((0.5, 2), (1.0, 4), (1.5, 6), (3.0, 12)):
        match = background_windows(positives, {}, patchy, per_positive=ratio,
                                   max_gc_difference=1.0).match["train"]["gc"]
        assert match["wanted"] == match["matched"] == wanted


# --- tiles ----------------------------------------------------------------------------------------------------
def test_tiles_by_hand(genome):
    """Tiles of 300 bp on 1,000 bp: the fourth of each chromosome reaches past its end."""
    peaks = {"A": table(("chr1", 0, 90), ("chr1", 250, 350), ("chr1", 430, 600), ("chr2", 880, 990)),
             "B": table(("chr2", 299, 310), ("chr2", 590, 650))}
    # chr1: 0..90 is whole in tile 0; 250..350 has 50 bp in each of two; 430..600 is in tile 1, of many N.
    # chr2: 880..990 has 90 bp in the last; 299..310 is in two tiles, whole in none; 590..650 has 50 in one of two
    selection = tiled_windows(peaks, genome, window_bp=300, min_overlap_bp=50, max_n_fraction=0.1)
    found = selection.windows[["chrom", "start", "end"]].to_numpy().tolist()
    assert found == [["chr1", 0, 300], ["chr2", 600, 900]]
    assert [(c.what, c.kept, c.of) for c in selection.counts] == [
        ("training peaks", 5, 6), ("tiles", 4, 8), ("peak tiles", 3, 4), ("peak tiles", 2, 3)]
    assert selection.windows["gc"].tolist() == [0.5, 0.0]


def test_a_tile_needs_enough_of_a_peak_or_all_of_it(genome):
    def starts(*peaks, **options):
        return tiled_windows({"A": table(*peaks)}, genome, window_bp=250, **options).windows["start"].tolist()

    assert starts(("chr2", 150, 350)) == [0, 250]  # 100 bp in each
    assert starts(("chr2", 151, 351)) == [250]
    assert starts(("chr2", 240, 250)) == [0]
    assert starts(("chr2", 0, 1000)) == [0, 250, 500, 750]
    with pytest.raises(ChromaccError, match="no tile is left of 1 peaks of 1 training.*peaks: kept 0 of 1"):
        starts(("chr2", 200, 300))
    with pytest.raises(ChromaccError, match="no tile is left of 0 peaks"):
        tiled_windows({}, genome, window_bp=250)


def test_tiled_background_is_of_the_same_grid_and_off_every_peak(patchy):
    rng = np.random.default_rng(1)
    spots = [(c, int(s), 1.0) for c in ("chr1", "chr2", "chr3") for s in rng.integers(500, 39_500, 15)]
    peaks = {"A": peaks_at(*spots, width=300)}
    blacklist = table(("chr1", 0, 5_000))
    positives = tiled_windows(peaks, patchy, blacklist, window_bp=200).windows
    positives["split"] = positives["chrom"].map({"chr1": "train", "chr2": "validation", "chr3": "test"})
    selection = background_windows(positives, peaks, patchy, blacklist, placement="tiled")
    windows = selection.windows
    assert (windows["start"] % 200 == 0).all() and len(windows) > 20
    both = pd.concat([windows, positives])
    assert not both.duplicated(["chrom", "start"]).any()
    for _, peak in pd.concat([peaks["A"], blacklist]).iterrows():
        here = windows[windows["chrom"] == peak["chrom"]]
        assert not ((here["start"] < peak["end"]) & (here["end"] > peak["start"])).any()
    first = selection.counts[0]
    assert first.of == 600 and first.kept < 600 - len(positives) and "touch no training peak" in str(first)
    shuffled = positives.sample(frac=1, random_state=1)
    mixed = {"A": peaks["A"].sample(frac=1, random_state=2)}
    again = background_windows(shuffled, mixed, patchy, blacklist, placement="tiled")
    assert again.windows.equals(windows)
    tiles = tiled_windows(mixed, patchy, blacklist, window_bp=200).windows
    assert tiles.equals(positives.drop(columns="split"))


def test_an_unknown_placement_is_refused(patchy):
    positives = table(("chr1", 1000, 1100)).assign(gc=0.5, split="train")
    with pytest.raises(ChromaccError, match="window_placement: got 'tiles'; needed one of summits, tiled"):
        background_windows(positives, {}, patchy, placement="tiles")


# --- labels -------------------------------------------------------------------------------------------------
def test_labels_at_the_overlap_that_is_needed():
    windows = table(("chr1", 1000, 2000), ("chr1", 2000, 3000), ("chr2", 1000, 2000))
    assert label_windows(windows, table(("chr1", 1900, 2100))).tolist() == [1, 1, 0]  # 100 bp in each
    assert label_windows(windows, table(("chr1", 1901, 2099))).tolist() == [0, 0, 0]  # 99 bp in each
    assert label_windows(windows, table(("chr1", 1950, 2000))).tolist() == [1, 0, 0]  # all of a short peak
    assert label_windows(windows, table(("chr1", 1950, 2001))).tolist() == [0, 0, 0]  # not all of it
    assert label_windows(windows, table(("chr1", 0, 5000))).tolist() == [1, 1, 0]
    assert label_windows(windows, table(("chr1", 1900, 2100)), min_overlap_bp=101).tolist() == [0, 0, 0]
    assert label_windows(windows, table()).tolist() == [0, 0, 0]


def test_labels_do_not_depend_on_the_order_of_windows_or_peaks():
    rng = np.random.default_rng(2)
    windows = table(*(("chr1", int(s), int(s) + 500) for s in rng.permutation(40) * 500))
    starts = rng.integers(0, 20_000, 30)
    peaks = table(*(("chr1", int(s), int(s) + int(w)) for s, w in zip(starts, rng.integers(20, 900, 30))))
    label = label_windows(windows, peaks)
    by_hand = [
        int(any(min(e, b) - max(s, a) >= min(100, b - a) for a, b in zip(peaks["start"], peaks["end"])))
        for s, e in zip(windows["start"], windows["end"])
    ]
    assert label.tolist() == by_hand and 0 < label.sum() < 40
    assert label_windows(windows, peaks.iloc[::-1]).tolist() == by_hand


# --- splits -------------------------------------------------------------------------------------------------
def cells(n: int, lineages: int = 4, donors: dict[int, str] | None = None) -> pd.DataFrame:
    donors = donors or {}
    return pd.DataFrame({
        "cell_type": [f"c{i}" for i in range(n)],
        "lineage": [f"l{i % lineages}" for i in range(n)],
        "donor": [donors.get(i, "") for i in range(n)]
    })


def test_twenty_cell_types_are_split_14_3_3_with_lineages_spread():
    for seed in range(5):
        split = split_cell_types(cells(20), seed)
        assert [list(split.values()).count(s) for s in ("train", "validation", "test")] == [14, 3, 3]
        held = [f"l{int(name[1:]) % 4}" for name, s in split.items() if s == "test"]
        assert len(set(held)) == 3  # three test cell types of three lineages
    assert split_cell_types(cells(20), 1) == split_cell_types(cells(20), 1) != split_cell_types(cells(20), 2)


def test_a_donor_never_straddles():
    donors = {0: "d1", 7: "d1", 9: "d2", 3: "d2", 8: "d2"}
    for seed in range(20):
        split = split_cell_types(cells(12, donors=donors), seed)
        assert split["c0"] == split["c7"] and split["c9"] == split["c3"] == split["c8"]
        assert set(split.values()) == {"train", "validation", "test"}
    chained = pd.DataFrame({
        "cell_type": ["a", "b", "b", "c", "d", "e"],
        "donor": ["x", "x", "y", "y", "z", ""],
        "lineage": ""
    })
    for seed in range(10):
        split = split_cell_types(chained, seed)
        assert split["a"] == split["b"] == split["c"]  # joined through b
    pooled = pd.DataFrame({"cell_type": list("abcdef"), "donor": ["D1, D2", "D1", "", "", "", "D2;D3"], "lineage": ""})
    for seed in range(20):
        split = split_cell_types(pooled, seed)
        assert split["a"] == split["b"] == split["f"], "a file pooled from two donors shares both"


def test_explicit_cell_types_override_and_none_means_none():
    split = split_cell_types(cells(10), 1, test=("c3",), validation=("c5", "c6"))
    assert [name for name, s in split.items() if s != "train"] == ["c3", "c5", "c6"]
    split = split_cell_types(cells(4), 1, test=("c3",), validation=("none",))
    assert list(split.values()) == ["train", "train", "train", "test"]
    split = split_cell_types(cells(4), 1, test=("c3",))
    assert sorted(split.values()) == ["test", "train", "train", "validation"] and split["c3"] == "test"


def test_an_unknown_lineage_is_no_lineage_that_cell_types_share():
    """Of eight cell types of one lineage 15%, one, is always tested; of eight unknown ones it may be any number."""
    known, last = [f"l{i % 3}" for i in range(12)], [f"c{i}" for i in range(12, 20)]

    def tested(lineage: str) -> list[int]:
        table = cells(20).assign(lineage=[*known, *[lineage] * 8])
        return [[split_cell_types(table, seed)[name] for name in last].count("test") for seed in range(8)]

    assert set(tested("l9")) == {1}
    assert len(set(tested(""))) > 1 and tested("") == tested("unknown")
    with pytest.raises(ChromaccError, match=r"several lineages: c0 \(l0 / l1\)"):
        split_cell_types(pd.concat([cells(20), cells(1).assign(lineage="l1")]), 1)


def assays(n: int, **lacking: set[int]) -> pd.DataFrame:
    """Which of n cell types have which assay; lacking: {assay: numbers of those without}."""
    names = [f"c{i}" for i in range(n)]
    return pd.DataFrame({a: [i not in without for i in range(n)] for a, without in lacking.items()}, index=names)


def test_cell_types_that_lack_an_assay_are_spread():
    observed = assays(20, H3K27ac=set(range(0, 20, 2)), CTCF={1, 3, 5, 7, 9, 11}, full=set())
    for seed in range(5):
        split = split_cell_types(cells(20, lineages=1), seed, observed=observed)
        assert [list(split.values()).count(s) for s in ("train", "validation", "test")] == [14, 3, 3]
        for assay in ("H3K27ac", "CTCF"):
            lacks = [s for name, s in split.items() if not observed.loc[name, assay]]
            assert {s: lacks.count(s) for s in ("validation", "test")} == pytest.approx(
                {"validation": 0.15 * len(lacks), "test": 0.15 * len(lacks)}, abs=0.7)
    full = assays(20, full=set())
    assert split_cell_types(cells(20), 3, observed=full) == split_cell_types(cells(20), 3)

def test_observed_assays_by_hand():
    manifest = pd.DataFrame([("a", "histone", "K27"), ("a", "expression", "rna"), ("b", "tf", "CTCF"),
                             ("b", "accessibility_signal", "acc"), ("c", "accessibility_signal", "acc")],
                            columns=["cell_type", "kind", "target"])
    observed = observed_assays(manifest)
    assert observed.index.tolist() == ["a", "b", "c"]
    assert observed.columns.tolist() == [("expression", "rna"), ("histone", "K27"), ("tf", "CTCF")]
    assert observed.to_numpy().tolist() == [[True, True, False], [False, False, True], [False] * 3]
    assert observed_assays(manifest[manifest["cell_type"] == "c"]).shape == (1, 0)


def test_each_donor_group_is_left_out_once():
    table = cells(9, donors={1: "d", 4: "d"})
    folds = leave_one_out_folds(table, 1)
    assert [fold.test_cell_types for fold in folds] == [
        ("c0",), ("c1", "c4"), ("c2",), ("c3",), ("c5",), ("c6",), ("c7",), ("c8",)]
    for fold in folds:
        split = split_cell_types(table, 5, fold.test_cell_types, fold.validation_cell_types)
        named = {s: tuple(name for name in split if split[name] == s) for s in ("validation", "test")}
        assert named == {"validation": fold.validation_cell_types, "test": fold.test_cell_types}
        assert fold.validation_cell_types and list(split.values()).count("train") >= 6
    assert leave_one_out_folds(table, 1) == folds


def test_folds_of_few_cell_types_do_without_validation_or_say_why_not():
    assert {fold.validation_cell_types for fold in leave_one_out_folds(cells(3), 1)} == {("none",)}
    (first, _) = leave_one_out_folds(cells(4, donors={0: "x", 1: "x", 2: "y", 3: "y"}), 1)
    assert (first.test_cell_types, first.validation_cell_types) == (("c0", "c1"), ("none",))
    with pytest.raises(ChromaccError, match="without c0 1 cell type.*at least 2 are needed"):
        leave_one_out_folds(cells(2), 1)


@pytest.mark.parametrize("kwargs, message", [
    ({"test": ("nobody",)}, "nobody named for a split.*known cell types: c0"),
    ({"test": ("c0",), "validation": ("c0",)}, "c0 named for both"),
    ({"test": ("c1",)}, "share a donor and must stay in one split; add c2"),
])
def test_explicit_lists_that_cannot_be(kwargs, message):
    with pytest.raises(ChromaccError, match=message):
        split_cell_types(cells(6, donors={1: "d", 2: "d"}), 1, **kwargs)


def test_too_few_cell_types_or_chromosomes_say_how_to_go_on():
    with pytest.raises(ChromaccError,
                       match=r'2 independent.*test_cell_types=\[.*validation_cell_types=\["none"\]'):
        split_cell_types(cells(2), 1)
    with pytest.raises(ChromaccError, match="cannot be split: 1 independent"):
        split_cell_types(cells(5, donors=dict.fromkeys(range(5), "same")), 1)
    with pytest.raises(ChromaccError, match=r"2 independent chromosomes.*test_chromosomes=\["):
        split_chromosomes({"chr1": 10, "chr2": 10}, 1)


def test_chromosomes_are_split_by_their_number_of_windows():
    n_windows = {
        f"chr{i}": n
        for i, n in enumerate((900, 700, 500, 300, 250, 200, 150, 100, 80, 60), start=1)
    }
    total = sum(n_windows.values())
    for seed in range(5):
        split = split_chromosomes(n_windows, seed)
        share = {
            s: sum(n for c, n in n_windows.items() if split[c] == s) / total
            for s in ("train", "validation", "test")
        }
        assert share == pytest.approx({"train": 0.7, "validation": 0.15, "test": 0.15}, abs=0.03)
    assert split_chromosomes(n_windows, 1) == split_chromosomes(n_windows, 1)
    explicit = split_chromosomes({
        "chr1": 9,
        "chr2": 5,
        "chr17": 2,
        "chr20": 3
    }, 1, ("chr17", "chr20"), ("chr2", ))
    assert explicit == {"chr1": "train", "chr2": "validation", "chr17": "test", "chr20": "test"}
    with pytest.raises(ChromaccError, match="chrX named for a split"):
        split_chromosomes(n_windows, 1, test=("chrX",))
