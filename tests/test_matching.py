"""Matching: covariates and the match by hand, then that each covariate is really matched, and the errors."""

import numpy as np
import pandas as pd
import pytest
from conftest import write_bigwig, write_fasta, write_lines
from test_genome import write_two_bit

from chromacc_lib import ChromaccError
from chromacc_lib.matching import (
    MatchChoice, bp_to_tss, match_covariates, match_gc, mean_mappability, repeat_share, tss_distance,
)
from chromacc_lib.windows import background_windows, base_content, open_genome

WINDOW_BP = 200


def windows_at(chrom: str, *starts: int, length: int = 10) -> pd.DataFrame:
    return pd.DataFrame({"chrom": chrom, "start": starts, "end": np.array(starts) + length})


# --- covariates ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["g.fa", "g.2bit"])
def test_repeats_by_hand(tmp_path, name):
    text = {"chr1": "ACGTNacgta" + "ACGTACGTAC" + "acgtn" + "AACCGGTTAC" + "t" * 5, "chr2": "A" * 30}
    write = write_two_bit if name == "g.2bit" else write_fasta
    genome = write(tmp_path / name, text)
    windows = pd.concat([windows_at("chr2", 5), windows_at("chr1", 30, 0, 18, 10, 20)])
    assert repeat_share(genome, windows).tolist() == [0, 0.5, 0.5, 0.5, 0, 0.5]
    plain = write(tmp_path / f"plain_{name}", {chrom: bases.upper() for chrom, bases in text.items()})
    with pytest.raises(ChromaccError, match=f"plain_{name}: no soft-masking: 0% of the bases of all 6.*hg38.2bit"):
        repeat_share(plain, windows)
    lower = write(tmp_path / f"lower_{name}", {chrom: bases.lower() for chrom, bases in text.items()})
    with pytest.raises(ChromaccError, match="no soft-masking: 100%"):
        repeat_share(lower, windows)


def test_fasta_and_two_bit_agree_on_repeats_of_any_layout(tmp_path):
    rng = np.random.default_rng(0)
    text = rng.choice(list("ACGTacgtN"), 5_000)
    text[1_000:2_000] = np.char.lower(text[1_000:2_000])
    text = {"chr1": "".join(text)}
    windows = windows_at("chr1", *rng.integers(0, 4_900, 200).tolist(), length=100)
    expected = [sum(map(str.islower, text["chr1"][s:s + 100])) / 100 for s in windows["start"]]
    for genome in (write_fasta(tmp_path / "g.fa", text), write_two_bit(tmp_path / "g.2bit", text)):
        assert repeat_share(genome, windows).tolist() == expected
        with open_genome(genome) as opened:
            assert opened["chr1"][995:1005] == text["chr1"][995:1005].upper()


def test_mappability_by_hand_and_its_errors(tmp_path):
    track = tmp_path / "umap.bw"
    write_bigwig(track, {"chr1": 100, "chr2": 50}, {"chr1": [(0, 10, 1.0), (10, 15, 0.5), (40, 50, 0.25)]})
    windows = windows_at("chr1", 40, 0, 10, 45)
    assert mean_mappability(track, windows).tolist() == [0.25, 1.0, 0.25, 0.125]
    with pytest.raises(ChromaccError, match="umap.bw: no mappability for windows up to 10 bp of chr2.*own assembly"):
        mean_mappability(track, windows_at("chr2", 0))
    with pytest.raises(ChromaccError, match="no mappability for windows up to 105 bp of chr1; got 100 bp"):
        mean_mappability(track, windows_at("chr1", 95))
    write_bigwig(tmp_path / "fold.bw", {"chr1": 100}, {"chr1": [(0, 10, 3.0)]})
    with pytest.raises(ChromaccError, match="fold.bw: got values from 3.* to 3; needed a mappability from 0 to 1"):
        mean_mappability(tmp_path / "fold.bw", windows_at("chr1", 0))


def test_tss_distance_by_hand_and_its_errors(tmp_path):
    tss = write_lines(tmp_path / "tss.bed", "chr1\t500\t501", "chr1\t100\t400", "chr1\t120\t121", "chr1\t900\t901")
    windows = pd.concat([windows_at("chr1", 899, 490, 491, 401, 60, 985, 300), windows_at("chr2", 0)])
    distance = 10 ** tss_distance(tss, windows, {"chr1": 1_000, "chr2": 300}) - 1
    assert distance.round(6).tolist() == [0, 0, 0, 1, 30, 84, 0, 300]  # nothing on chr2: its length
    assert bp_to_tss(tss, windows, {"chr1": 1_000, "chr2": 300})[:-1].tolist() == [0, 0, 0, 1, 30, 84, 0]
    assert np.isnan(bp_to_tss(tss, windows, {"chr1": 1_000, "chr2": 300})[-1])
    with pytest.raises(ChromaccError, match="tss.bed: no TSS on any chromosome of the windows .chr2"):
        tss_distance(tss, windows_at("chr2", 0), {"chr1": 1_000, "chr2": 300})
    bad = write_lines(tmp_path / "bad.bed", "chr1\t500\t400")
    with pytest.raises(ChromaccError, match="starts exceed ends"):
        tss_distance(bad, windows, {"chr1": 1_000, "chr2": 300})


def test_tss_distance_against_every_pair(tmp_path):
    rng = np.random.default_rng(2)
    begins, widths = rng.integers(0, 9_000, 40), rng.integers(1, 300, 40)
    tss = write_lines(tmp_path / "tss.bed", *(f"chr1\t{b}\t{b + w}" for b, w in zip(begins, widths)))
    windows = windows_at("chr1", *rng.integers(0, 9_900, 100).tolist(), length=100)
    gap = np.maximum(begins[None] - windows["end"].to_numpy()[:, None], windows["start"].to_numpy()[:, None]
                     - (begins + widths)[None]).clip(0).min(axis=1)
    assert np.allclose(tss_distance(tss, windows, {"chr1": 10_000}), np.log10(1 + gap))


# --- choosing -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("options, message", [
    ({"on": ("cg",)}, "match_on: got .'cg',.; needed one or more of gc, repeats, mappability, tss_distance"),
    ({"on": ()}, "match_on: got"), ({"on": ("gc", "gc")}, "each once"), ({"on": "gc"}, "match_on: got 'gc'"),
    ({"on": ("mappability",)}, "mappability='': mappability needs a bigWig"),
    ({"on": ("tss_distance",)}, "tss='': tss_distance needs a BED"), ({"mappability": "a.bw"}, "serves nothing else"),
])
def test_a_choice_that_cannot_be_is_refused(options, message):
    with pytest.raises(ChromaccError, match=message):
        MatchChoice(**options)


# --- the match ----------------------------------------------------------------------------------------------
def test_match_by_hand():
    pool = np.array([[0.50, 0.9], [0.515, 0.2], [0.51, 0.2]])
    target = np.array([[0.50, 0.2], [0.40, 0.2]])
    chosen = match_covariates(target, pool, (0.02, 0.05), seed=1)
    assert chosen.tolist() == [2, -1]  # 0.9 would be nearest in GC
    twice = match_covariates(target[[0, 0, 0]], pool, (0.02, 0.05), seed=1)
    assert sorted(twice.tolist()) == [-1, 1, 2]  # each candidate once, and 0.9 is too far
    assert match_covariates(target, pool[:0], (0.02, 0.05), 1).tolist() == [-1, -1]
    assert match_covariates(target, pool, (0, 0), 1).tolist() == [-1, -1]
    assert match_covariates(target[:0], pool, (0.02, 0.05), 1).tolist() == []
    assert match_covariates(target, target[::-1], (0, 0), 1).tolist() == [1, 0]
    on_the_edge = match_covariates(np.array([[0.0, 0.0]]), np.array([[0.5, 0.25]]), (0.5, 0.25), 1)
    assert on_the_edge.tolist() == [0]


def test_with_one_covariate_it_is_the_match_of_gc():
    rng = np.random.default_rng(0)
    target, pool = rng.random((200, 1)), rng.random((300, 1))
    expected = match_gc(target[:, 0], pool[:, 0], 3, 0.05)
    assert match_covariates(target, pool, (0.05,), 3).tolist() == expected.tolist()


def test_it_is_always_the_nearest_unused_candidate_within_the_calipers():
    rng = np.random.default_rng(1)
    for trial in range(10):
        target, pool = rng.random((60, 2)), rng.random((80, 2)) * 0.6  # crowded: neighbours run out
        box, scale = np.array([0.1, 0.2]), target.std(axis=0)
        chosen = match_covariates(target, pool, box, seed=trial)
        used = chosen[chosen >= 0]
        assert len(set(used.tolist())) == len(used) and 0 < len(used) < 60
        assert chosen.tolist() == match_covariates(target, pool, box, seed=trial).tolist()
        free = np.setdiff1d(np.arange(80), used)
        for point, pick in zip(target, chosen):
            assert pick < 0 or (np.abs(pool[pick] - point) <= box).all()
            left = pool[free][(np.abs(pool[free] - point) <= box).all(axis=1)]
            nearest = np.linalg.norm((left - point) / scale, axis=1).min(initial=np.inf)
            # whatever was still free at the end was free when this target was served
            assert np.linalg.norm((pool[pick] - point) / scale) <= nearest if pick >= 0 else nearest == np.inf


def test_many_equal_candidates_serve_as_many_targets():
    chosen = match_covariates(np.zeros((100, 2)), np.zeros((100, 2)), (0.1, 0.1), seed=1)
    assert sorted(chosen.tolist()) == list(range(100))


# --- background ---------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def landscape(tmp_path_factory):
    """200 kb in windows of 200 bp whose GC, soft-masked share and mappability vary alone; a TSS every 20 kb.

    Peaks: windows that are poor in repeats, well mappable and near a TSS by preference, unlike the others.
    """
    folder, rng = tmp_path_factory.mktemp("landscape"), np.random.default_rng(4)
    n = 1_000
    gc, masked, mapped = rng.uniform(0.4, 0.6, n), rng.beta(1, 1, n), np.round(rng.beta(2, 1, n), 3)
    parts = []
    for one_gc, one_masked in zip(gc, masked):
        weak, strong = (1 - one_gc) / 2, one_gc / 2
        bases = rng.choice(list("ACGT"), WINDOW_BP, p=[weak, strong, strong, weak])
        n_lower = int(one_masked * WINDOW_BP)
        parts.append("".join(bases[:n_lower]).lower() + "".join(bases[n_lower:]))
    genome = write_fasta(folder / "g.fa", {"chr1": "".join(parts)})
    write_bigwig(folder / "map.bw", {"chr1": n * WINDOW_BP},
                 {"chr1": [(i * WINDOW_BP, (i + 1) * WINDOW_BP, float(v)) for i, v in enumerate(mapped)]})
    tss = write_lines(folder / "tss.bed", *(f"chr1\t{at}\t{at + 1}" for at in range(10_000, 200_000, 20_000)))
    far = np.abs((np.arange(n) * WINDOW_BP + 10_000) % 20_000 - 10_000) / 10_000
    liked = np.exp(-3 * masked + 5 * mapped + far)
    chosen = np.sort(rng.choice(n, 120, replace=False, p=liked / liked.sum()))
    positives = windows_at("chr1", *(chosen * WINDOW_BP).tolist(), length=WINDOW_BP).assign(split="train")
    with open_genome(genome) as opened:
        positives["gc"] = base_content(opened, positives)["gc"]
    return genome, positives, {"mappability": folder / "map.bw", "tss": tss}


def draw(landscape, *on: str, **options):
    genome, positives, files = landscape
    needed = {"mappability": "mappability", "tss_distance": "tss"}
    choice = MatchChoice(on, **{needed[name]: files[needed[name]] for name in on if name in needed})
    return background_windows(options.get("positives", positives), {}, genome, placement="tiled", choice=choice)


@pytest.mark.parametrize("name", ["repeats", "mappability"])
def test_a_covariate_is_matched_only_when_it_is_asked_for(landscape, name):
    selection = draw(landscape, "gc", name)
    match = selection.match["train"]
    assert list(match) == ["gc", name] and match[name]["matched_on"]
    assert match[name]["ks_before"] > 0.3 > 0.15 > match[name]["ks_matched"]
    assert match["gc"]["ks_matched"] < 0.15
    assert 60 < match[name]["matched"] == len(selection.windows) == match["gc"]["matched"] <= 120
    assert match[name]["unmatched"] == 120 - match[name]["matched"]
    last = selection.counts[-1]
    assert (last.kept, last.of) == (match[name]["matched"], 120) and f"0.02 in GC, 0.05 in {name}" in str(last)
    gc_alone = draw(landscape, "gc").windows
    share = repeat_share(landscape[0], gc_alone) if name == "repeats" else mean_mappability(
        landscape[2]["mappability"], gc_alone)
    wanted = repeat_share(landscape[0], landscape[1]) if name == "repeats" else mean_mappability(
        landscape[2]["mappability"], landscape[1])
    assert abs(share.mean() - wanted.mean()) > 0.1  # GC alone leaves the difference


def test_distance_to_tss_is_matched_and_gc_is_watched_all_the_same(landscape):
    match = draw(landscape, "tss_distance").match["train"]
    assert list(match) == ["gc", "tss_distance"]
    assert not match["gc"]["matched_on"] and match["tss_distance"]["matched_on"]
    assert match["tss_distance"]["ks_matched"] < 0.1 < match["tss_distance"]["ks_before"]
    histogram = match["tss_distance"]["histogram"]
    assert sum(histogram["peaks"]) == 120 and sum(histogram["background"]) == match["tss_distance"]["matched"]


def test_all_at_once_and_the_order_of_rows_does_not_matter(landscape):
    names = ("gc", "repeats", "mappability", "tss_distance")
    selection = draw(landscape, *names)
    assert list(selection.match["train"]) == list(names)
    again = draw(landscape, *names, positives=landscape[1].sample(frac=1, random_state=3))
    assert again.windows.equals(selection.windows) and again.match == selection.match
    assert selection.windows.columns.tolist() == ["chrom", "start", "end", "gc", "split"]
