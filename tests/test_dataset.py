"""The dataset: hand-worked values, invariants of splits and labels, and the proof that held-out data shape
nothing.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from threading import current_thread, main_thread

import numpy as np
import pandas as pd
import pyBigWig
import pytest
from conftest import PARAMETERS, write_bigwig, write_lines
from scipy.spatial.distance import pdist
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF

from chromacc_lib import ChromaccError, regions
from chromacc_lib.curation import CurationParameters, curate
from chromacc_lib.dataset import (
    expected_departure, load_arrays, locus_average, open_dataset, read_normalization, state_weights, track_signal,
    window_summaries, window_tracks,
)
from chromacc_lib.manifest import read_manifest
from chromacc_lib.normalization import METHODS, file_constants, normalise_metadata
from chromacc_lib.signals import binned_signal, genome_mean
from chromacc_lib.windows import leave_one_out_folds


def silent(line: str) -> None:
    pass


def curate_project(project, parameters=PARAMETERS, **kwargs):
    kwargs = {"blacklist": project.blacklist, "say": silent} | kwargs
    return curate(project.manifest, project.genome_fasta, project.folder / "dataset", parameters, **kwargs)


@pytest.fixture(scope="module")
def arrays(curated):
    return load_arrays(curated[1])


@pytest.fixture(scope="module")
def dataset(curated):
    return open_dataset(curated[1])


# --- the locus average --------------------------------------------------------------------------------------
def test_locus_average_leaves_one_out_by_hand():
    values = np.array([[1.0, 2.0, 6.0, 9.0], [1.0, np.nan, 3.0,
                                              np.nan]])  # three training cell types, one unseen
    got = locus_average(values, np.array([True, True, True, False]))
    assert got.dtype == np.float32
    assert got.tolist() == [[4.0, 3.5, 1.5, 3.0], [3.0, 2.0, 1.0, 2.0]]


def test_locus_average_without_any_other_training_cell_type_is_unknown():
    got = locus_average(np.array([[1.0, np.nan, 5.0]]), np.array([True, True, False]))
    assert np.isnan(got[0, 0]) and got[0, 1] == 1.0 and got[0, 2] == 1.0
    assert np.isnan(locus_average(np.array([[1.0, 2.0]]), np.array([False, False]))).all()


def test_a_cell_type_never_enters_its_own_average():
    rng = np.random.default_rng(0)
    values, train = rng.normal(1e6, 1, (50, 8, 4)), np.arange(8) < 6
    before = locus_average(values, train)
    for cell in range(8):
        changed = values.copy()
        changed[:, cell] = rng.normal(0, 1e9, (50, 4))
        after = locus_average(changed, train)
        assert np.array_equal(after[:, cell], before[:, cell])  # bit for bit
        assert np.array_equal(after, before) == (not train[cell])  # and an unseen one enters nobody's


def test_locus_average_equals_a_plain_loop():
    rng = np.random.default_rng(1)
    values, train = rng.normal(size=(20, 7, 3)), np.array([1, 0, 1, 1, 1, 0, 1], bool)
    values[rng.random(values.shape) < 0.3] = np.nan
    got = locus_average(values, train)
    for cell in range(7):
        others = [i for i in range(7) if train[i] and i != cell]
        known = np.isfinite(values[:, others])
        count = known.sum(axis=1)
        mean = np.where(known, values[:, others], 0).sum(axis=1) / np.maximum(count, 1)
        np.testing.assert_allclose(got[:, cell], np.where(count > 0, mean, np.nan), rtol=1e-6)


# --- normalisation ------------------------------------------------------------------------------------------
def test_training_values_are_standardised(curated, arrays):
    cells, rows = arrays.train_mask, (arrays.windows["split"] == "train").to_numpy()
    for values, observed in ((arrays.histone, arrays.histone_observed), (arrays.tf, arrays.tf_observed)):
        for m in range(values.shape[2]):
            known = values[rows][:, cells, m][observed[rows][:, cells, m]]  # (n, B, 3)
            np.testing.assert_allclose(known.mean(axis=(0, 1), dtype=np.float64), 0, atol=1e-4)
            np.testing.assert_allclose(known.std(axis=(0, 1), dtype=np.float64), 1, atol=1e-4)
    assert read_normalization(curated[1])["fitted_on"]["cell_types"] == ["A", "B", "C", "F"]


def test_metadata_is_z_of_log2_tpm_over_training_cell_types(arrays, dataset):
    raw = np.log2(np.array([[n + 1, 10 * n] for n in range(6)]) + 1)
    np.testing.assert_allclose(dataset["metadata"], raw, rtol=1e-6)
    train = raw[arrays.train_mask]
    np.testing.assert_allclose(arrays.metadata, (raw - train.mean(axis=0)) / train.std(axis=0), rtol=1e-5)
    assert arrays.features == ("CTCF", "GATA1") and arrays.metadata_observed.all()
    values, observed = normalise_metadata(np.array([[np.nan, np.nan], [1.0, np.nan]]), {
        "metadata": {"a": {"mean": 0.0, "sd": 2.0}, "b": {"mean": 5.0, "sd": 1.0}}}, ["a", "b"])
    assert values.tolist() == [[0, 0], [0.5, 0]] and observed.tolist() == [False, True]


def fitted(path, held_out="DE"):
    """Return normalization.json's content, to the last digit, but for the held-out files' own constants."""
    content = read_normalization(path)
    for cell in held_out:
        del content["own"][cell], content["accessibility"][cell]
    return json.dumps(content)


@pytest.mark.parametrize("method", METHODS)
def test_held_out_cell_types_and_chromosomes_shape_nothing(project, method):
    """Change every file of the test and validation cell types: windows and constants stay what they were."""
    parameters = replace(PARAMETERS, normalization=method)
    first = curate_project(project, parameters)
    before = open_dataset(first.path).load()
    constants, own = fitted(first.path), read_normalization(first.path)["own"]["D"]
    rng = np.random.default_rng(9)
    for cell in ("D", "E"):
        for path in sorted((project.folder / cell).glob("*.bw")):
            with pyBigWig.open(str(path)) as bigwig:
                had = {chrom: bigwig.intervals(chrom) for chrom in project.sizes}
            write_bigwig(path, project.sizes, {
                chrom: [(start, end, 99 * value * rng.gamma(9, 1 / 9)) for start, end, value in rows]
                for chrom, rows in had.items()})
        write_lines(project.folder / cell / "peaks.narrowPeak", "chrT1\t20100\t20300", "chrT6\t50000\t50900")
        write_lines(project.folder / cell / "expression.tsv", "gene\ttpm", "CTCF\t9999", "GATA1\t9999",
                    "NEW\t5")
    second = curate_project(project, parameters)
    assert second.fresh
    after = open_dataset(second.path).load()
    assert fitted(second.path) == constants and read_normalization(second.path)["own"]["D"] != own
    for name in ("chrom", "start", "kind", "window_split", "gc", "cell_type_split", "feature", "sequence"):
        assert after[name].equals(before[name]), name
    seen = [name for name in "ABCF"]
    for name in ("histone", "tf", "accessibility", "score", "label", "metadata"):
        assert after[name].sel(cell_type=seen).equals(before[name].sel(cell_type=seen)), name
        assert not after[name].sel(cell_type="D").equals(before[name].sel(cell_type="D")), name
    arrays = load_arrays(second.path)
    first_prior = locus_average(before["score"].values, arrays.train_mask)
    assert np.array_equal(locus_average(arrays.score, arrays.train_mask), first_prior)


@pytest.mark.parametrize("method", METHODS)
def test_training_files_do_shape_the_constants(project, method):
    parameters = replace(PARAMETERS, normalization=method)
    constants = json.loads(fitted(curate_project(project, parameters).path))
    shutil.copy(project.folder / "D/H3K27ac.bw", project.folder / "A/H3K27ac.bw")
    changed = json.loads(fitted(curate_project(project, parameters).path))
    assert changed["own"]["A"]["H3K27ac"] != constants["own"]["A"]["H3K27ac"]
    assert changed["tracks"]["H3K27ac"] != constants["tracks"]["H3K27ac"]
    assert changed["tracks"]["CTCF"] == constants["tracks"]["CTCF"]


@pytest.mark.parametrize("method", METHODS)
def test_accessibility_of_an_unseen_cell_type_never_touches_its_inputs(project, method):
    parameters = replace(PARAMETERS, normalization=method)
    first = curate_project(project, parameters)
    before, constants = load_arrays(first.path), read_normalization(first.path)
    for name in ("ATAC1.bw", "ATAC2.bw", "peaks.narrowPeak"):  # E is open where D is closed
        shutil.copy(project.folder / "E" / name, project.folder / "D" / name)
    second = curate_project(project, parameters)
    after = load_arrays(second.path)
    changed = read_normalization(second.path)
    assert changed["accessibility"].pop("D") != constants["accessibility"].pop("D")  # what its score is divided by
    assert json.dumps(changed) == json.dumps(constants)
    assert np.array_equal(after.histone, before.histone) and np.array_equal(after.tf, before.tf)
    assert not np.array_equal(after.score[:, 3], before.score[:, 3])


@pytest.mark.parametrize("method", METHODS)
def test_normalization_json_holds_every_constant(project, method):
    """Each own constant and reference can be recomputed from the file's signal and the text alone."""
    result = curate_project(project, replace(PARAMETERS, normalization=method))
    content, dataset = read_normalization(result.path), open_dataset(result.path).load()
    train = dataset["window_split"].values == "train"
    peak = dataset["kind"].values[train] == "peak"
    assert content["normalization"] == method and content["own"]["B"].keys() == {"H3K27ac", "CTCF"}
    files = file_constants(content, dataset["cell_type"].values.tolist(), ["H3K4me3", "H3K27ac"])
    assert files[1][0] is None
    fold = {}
    for cell, (_, own) in zip(dataset["cell_type"].values.tolist(), files, strict=True):
        assert own.genome_mean == float(dataset["genome_mean"].sel(cell_type=cell, track="H3K27ac"))
        signal = track_signal(dataset, "H3K27ac").sel(cell_type=cell, statistic="mean").values[train]
        fold[cell] = signal.astype(float) / own.genome_mean
        if method == "quantile":
            np.testing.assert_allclose(own.quantiles, np.quantile(fold[cell], content["quantile_levels"]))
        elif method == "s3norm":
            matched = own.alpha * fold[cell] ** own.beta
            reference = content["tracks"]["H3K27ac"]["reference"]
            np.testing.assert_allclose([matched[peak].mean(), matched[~peak].mean()],
                                       [reference["peak_mean"], reference["background_mean"]])
    reference = content["tracks"]["H3K27ac"]["reference"]
    for name, of in {"peak_mean": peak, "background_mean": ~peak}.items():
        if method == "s3norm":
            assert reference[name] == pytest.approx(np.mean([fold[cell][of].mean() for cell in "ABCF"]))
    if method == "quantile":
        levels = [np.quantile(fold[cell], content["quantile_levels"]) for cell in "ABCF"]
        np.testing.assert_allclose(reference["quantiles"], np.mean(levels, axis=0))


def by_hand(fold, own, reference, method, levels):
    """Return what a bin mean becomes before its z-score, from the text of normalization.json alone."""
    if method == "quantile":  # all levels differ here
        above = fold * (reference["quantiles"][-1] / own["quantiles"][-1])
        inside = np.interp(fold, own["quantiles"], reference["quantiles"])
        fold = np.where(fold > own["quantiles"][-1], above, inside)
    elif method == "s3norm":
        fold = own["alpha"] * fold ** own["beta"]
    return np.log1p(fold) if method == "log1p" else np.arcsinh(fold)


@pytest.mark.parametrize("method", METHODS)
def test_arrays_follow_from_the_files_and_normalization_json_alone(project, method):
    """A histone track, a TF, profile and score of the test cell type; the accessibility of one file goes back, too."""
    path = curate_project(project, replace(PARAMETERS, normalization=method)).path
    content, arrays = json.loads((path / "normalization.json").read_text()), load_arrays(path)
    for track, scaled in (("H3K27ac", arrays.histone[:, 3, 0]), ("CTCF", arrays.tf[:, 3, 0])):
        own, constants = content["own"]["D"][track], content["tracks"][track]
        fold = binned_signal(project.folder / f"D/{track}.bw", arrays.windows, 10)[..., 0] / own["genome_mean"]
        expected = by_hand(fold, own, constants["reference"], method, content["quantile_levels"])
        np.testing.assert_allclose(scaled[..., 0], (expected - constants["mean"][0]) / constants["sd"][0], atol=2e-5)
    files = [binned_signal(project.folder / f"D/ATAC{n}.bw", arrays.windows, 10)[..., 0] for n in (1, 2)]
    means = content["accessibility"]["D"]
    fold = np.mean([file / mean for file, mean in zip(files, means, strict=True)], axis=0)
    assert "arcsinh of the mean over replicates" in content["accessibility_transform"]
    np.testing.assert_allclose(arrays.accessibility[:, 3], np.arcsinh(fold), rtol=1e-5)
    np.testing.assert_allclose(arrays.score[:, 3], np.arcsinh(fold.mean(axis=1)), rtol=1e-5)
    for replicate, (file, mean) in enumerate(zip(files, means)):
        in_file_units = np.sinh(arrays.score_replicate[:, 3, replicate]) * mean
        np.testing.assert_allclose(in_file_units, file.mean(axis=1), rtol=1e-5)


@pytest.mark.parametrize("method", ["quantile", "s3norm"])
@pytest.mark.parametrize("sample", [4096, 10])
def test_files_too_sparse_are_all_listed_before_the_store_is_filled(project, monkeypatch, method, sample):
    """Of a test and of a training cell type; also where only a sample of the windows is looked at first."""
    parameters = replace(PARAMETERS, normalization=method)
    chroms = curate_project(project, parameters).summary["chromosomes"]["test"]
    monkeypatch.setattr(regions, "SAMPLE_WINDOWS", sample)
    for name in ("D/CTCF.bw", "A/H3K27ac.bw"):
        write_bigwig(project.folder / name, project.sizes, {chroms[0]: [(0, 60_000, 1.0)]})
    with monkeypatch.context() as patch:
        patch.setattr(regions, "_fill", None)
        with pytest.raises(ChromaccError) as error:
            curate_project(project, parameters)
    lines = str(error.value).splitlines()
    assert len(lines) == 3 and lines[0].startswith("2 problem(s)")
    for line, place in zip(lines[1:], ("A, H3K27ac (", "D, CTCF (")):
        assert place in line and f": too sparse for {method}; got " in line and "needed above 0" in line
        assert "Leave the file out" in line and '"arcsinh"' in line
    assert not list(project.folder.glob("*.partial"))
    assert curate_project(project).fresh  # which needs no windows


@pytest.mark.parametrize("method", ["quantile", "s3norm"])
def test_no_file_is_refused_for_where_the_sample_of_windows_fell(project, monkeypatch, method):
    """A file that has signal in some windows of training chromosomes, and none in the two that are looked at first."""
    dataset = open_dataset(curate_project(project).path)
    train = np.flatnonzero(dataset["window_split"] == "train")
    skipped = {(dataset["chrom"].values[i], int(dataset["start"].values[i])) for i in train[[0, -1]]}
    rows = {chrom: [] for chrom in project.sizes}
    for chrom, start, end, kind in zip(*(dataset[name].values[train] for name in ("chrom", "start", "end", "kind"))):
        if (chrom, start) not in skipped:
            rows[chrom].append((int(start), int(end), (8 if kind == "peak" else 1) + start % 3))
    write_bigwig(project.folder / "D/CTCF.bw", project.sizes, rows)
    monkeypatch.setattr(regions, "SAMPLE_WINDOWS", 2)
    read, read_signal = [], regions.read_signal

    def note(entry, windows, n_bins, chroms):
        if current_thread() is main_thread():  # the check's own reading: the store is filled by dask's threads
            read.append(len(windows))
        return read_signal(entry, windows, n_bins, chroms)

    monkeypatch.setattr(regions, "read_signal", note)
    assert curate_project(project, replace(PARAMETERS, normalization=method)).fresh
    assert len(train) in read and 2 in read


def test_an_unknown_normalization_is_refused_before_any_work(project):
    with pytest.raises(ChromaccError, match="got 'zscore', needed one of arcsinh, log1p, quantile, s3norm"):
        curate_project(project, replace(PARAMETERS, normalization="zscore"))


# --- what is in the dataset ---------------------------------------------------------------------------------
def test_shapes_types_and_names(dataset, arrays):
    w, c, b = len(arrays.windows), 6, 10
    assert dict(dataset.sizes) == {
        "window": w,
        "cell_type": c,
        "position": 1000,
        "histone_mark": 2,
        "tf_name": 1,
        "bin": b,
        "statistic": 3,
        "feature": 2,
        "replicate": 2,
        "track": 3,
        "chrom_name": 6
    }
    assert arrays.sequence.shape == (w, 1000) and arrays.sequence.dtype == np.uint8
    assert arrays.histone.shape == (w, c, 2, b, 3) and arrays.tf.shape == (w, c, 1, b, 3)
    assert arrays.accessibility.shape == (w, c, b) and arrays.score.shape == arrays.label.shape == (w, c)
    assert arrays.score_replicate.shape == (w, c, 2) and arrays.truth is None and arrays.simulated is False
    assert arrays.histone_marks == ("H3K27ac", "H3K4me3") and arrays.tfs == ("CTCF",)
    assert arrays.windows.columns.tolist() == ["chrom", "start", "end", "gc", "kind", "split", "tss_distance"]
    assert arrays.cell_types["cell_type"].tolist() == list("ABCDEF")
    assert arrays.cell_types["split"].tolist() == ["train", "train", "train", "test", "validation", "train"]
    assert arrays.cell_types["donor"].tolist() == [f"donor{name}" for name in "ABCDEF"]
    assert dataset.attrs["assembly"] == "tiny1" and dataset.attrs["window_bp"] == 1000


def test_stored_numbers_are_the_files_own(curated, dataset, arrays):
    project, _ = curated
    path = project.folder / "F/H3K4me3.bw"
    expected = binned_signal(path, arrays.windows, 10)
    assert np.array_equal(track_signal(dataset, "H3K4me3").sel(cell_type="F").values, expected)
    assert float(dataset["genome_mean"].sel(cell_type="F", track="H3K4me3")) == genome_mean(path)
    for number in (1, 2):
        path = project.folder / f"F/ATAC{number}.bw"
        raw, mean = (dataset[name].sel(cell_type="F").isel(replicate=number - 1)
                     for name in ("accessibility_raw", "accessibility_genome_mean"))
        assert np.array_equal(raw.values, binned_signal(path, arrays.windows, 10)) and float(mean) == genome_mean(path)
    folds = []
    for replicate in ("1", "2"):
        with pyBigWig.open(str(project.folder / f"A/ATAC{replicate}.bw")) as bigwig:
            row = arrays.windows.iloc[7]
            values = bigwig.values(row["chrom"], int(row["start"]), int(row["end"]), numpy=True).astype(float)
            total = sum((e - s) * v for chrom in bigwig.chroms() for s, e, v in bigwig.intervals(chrom))
        folds.append(values / (total / 360_000))
    np.testing.assert_allclose(arrays.score_replicate[7, 0], [np.arcsinh(f.mean()) for f in folds], rtol=1e-5)
    both = np.mean(folds, axis=0)  # replicates are averaged before arcsinh
    np.testing.assert_allclose(arrays.score[7, 0], np.arcsinh(both.mean()), rtol=1e-5)
    np.testing.assert_allclose(arrays.accessibility[7, 0],
                               np.arcsinh(both.reshape(10, 100).mean(axis=1)),
                               rtol=1e-5)


def test_missing_is_missing_never_zero(dataset, arrays, curated):
    assert np.isnan(track_signal(dataset, "H3K4me3").sel(cell_type="B")).all()
    assert not arrays.histone_observed[:, 1, 1].any() and arrays.histone_observed[:, 1, 0].all()
    on_chr2 = (arrays.windows["chrom"] == "chrT2").to_numpy()
    assert on_chr2.any() and np.array_equal(arrays.tf_observed[:, 2, 0], ~on_chr2)
    assert not dataset["observed"].sel(cell_type="C", track="CTCF", chrom_name="chrT2")
    assert dataset["observed"].sel(cell_type="C", track="CTCF").sum() == 5
    assert np.array_equal(dataset["covered"].sel(cell_type="C", track="CTCF").isnull(), on_chr2)
    summary = json.loads((curated[1] / "curation.json").read_text())
    assert summary["missing_tracks"] == ["B, H3K4me3"
                                         ] and summary["missing_on_chromosomes"] == ["C, CTCF, chrT2"]


def test_windows_and_labels(curated, arrays):
    windows = arrays.windows
    by_place = windows.sort_values(["chrom", "start"])
    assert (by_place.groupby("chrom")["start"].diff().dropna() >= 1000).all()
    assert (windows.groupby("chrom")["split"].nunique() == 1).all()
    assert set(windows["split"]) == {"train", "validation", "test"}
    peak, train = (windows["kind"] == "peak").to_numpy(), arrays.train_mask
    assert (arrays.label[peak][:, train] == 1).any(axis=1).all()  # a peak window is a training cell type's
    assert (arrays.label[~peak][:, train] == 0).all()  # background lies off all of them
    project, _ = curated
    peaks = pd.read_csv(project.folder / "D/peaks.narrowPeak", sep="\t", header=None)
    for row, label in zip(windows.itertuples(), arrays.label[:, 3]):
        here = peaks[peaks[0] == row.chrom]
        shared = np.minimum(here[2], row.end) - np.maximum(here[1], row.start)
        assert label == int((shared >= 100).any())
    blacklisted = (windows["chrom"] == "chrT1") & (windows["start"] < 4000) & (windows["end"] > 2000)
    assert not blacklisted.any()


def test_cell_types_without_peaks_have_unknown_labels(project):
    lines = [line for line in project.manifest.read_text().splitlines() if "F/peaks" not in line]
    write_lines(project.manifest, *lines)
    said = []
    arrays = load_arrays(curate_project(project, say=said.append).path)
    assert (arrays.label[:, 5] == -1).all() and (arrays.label[:, :5] >= 0).all() and np.isfinite(
        arrays.score).all()
    assert any(
        line.startswith("note: ") and "cell type F has no accessibility peaks" in line for line in said)


def test_accessibility_missing_on_a_chromosome_is_unknown_there(project):
    for replicate in ("1", "2"):
        path = project.folder / f"F/ATAC{replicate}.bw"
        with pyBigWig.open(str(path)) as bigwig:
            kept = {chrom: bigwig.intervals(chrom) for chrom in bigwig.chroms() if chrom != "chrT3"}
        path.unlink()
        write_bigwig(path, project.sizes, kept)
    arrays = load_arrays(curate_project(project).path)
    there = (arrays.windows["chrom"] == "chrT3").to_numpy()
    assert np.array_equal(np.isnan(arrays.score[:, 5]), there)
    assert np.array_equal(arrays.label[:, 5] == -1, there) and np.isnan(arrays.accessibility[there, 5]).all()
    assert np.isfinite(arrays.prior_score).all() and arrays.prior_observed.all()  # the others still know
    dataset = open_dataset(project.folder / "dataset")
    for name in ("accessibility_raw", "accessibility_covered"):
        assert np.array_equal(dataset[name][:, 5].isnull().values.reshape(len(there), -1).any(axis=1), there), name


def test_how_much_of_a_window_has_data_is_kept_for_every_file(project):
    """A file with data in every other 50 bp: the rest counts as zero in its mean, and is seen in the covered share."""
    for name in ("ATAC1", "H3K27ac", "CTCF"):
        rows = [(start, start + 50, 2.0) for start in range(0, 60_000, 100)]
        write_bigwig(project.folder / f"A/{name}.bw", project.sizes, {chrom: rows for chrom in project.sizes})
    dataset = open_dataset(curate_project(project).path).sel(cell_type="A")
    covered = dataset["covered"].sel(track=["H3K27ac", "CTCF"])
    np.testing.assert_allclose(covered, np.full(covered.shape, 0.5), atol=0.05)
    np.testing.assert_allclose(dataset["accessibility_covered"], [[0.5, 1.0]] * dataset.sizes["window"], atol=0.05)
    expected = 2 * dataset["accessibility_covered"].isel(replicate=0)
    raw = dataset["accessibility_raw"].isel(replicate=0)
    np.testing.assert_allclose(raw.sel(statistic="mean").mean("bin"), expected, rtol=1e-5)
    assert (raw.sel(statistic="max") == 2).all()


def test_priors(arrays):
    train = arrays.train_mask
    others = [1, 2, 5]  # the training cell types beside A
    np.testing.assert_allclose(arrays.prior_profile[:, 0, :, 0],
                               arrays.accessibility[:, others].mean(axis=1),
                               rtol=1e-5)
    np.testing.assert_allclose(arrays.prior_profile[:, 0, :, 1],
                               arrays.accessibility[:, others].std(axis=1),
                               atol=2e-3)
    np.testing.assert_allclose(arrays.prior_score[:, 3], arrays.score[:, train].mean(axis=1), rtol=1e-5)
    assert arrays.prior_profile.shape == (*arrays.score.shape, 10, 3) and arrays.prior_observed.all()


def test_the_departure_is_that_of_gaussian_process_regression_over_cell_types(arrays):
    """Against scikit-learn's, of the training cell types but the one described; exactly none without metadata."""
    rng = np.random.default_rng(3)
    metadata = rng.normal(size=(6, 4)).astype(np.float32)
    train, observed = arrays.train_mask, np.array([True, True, True, True, False, True])
    weights = state_weights(metadata, observed, train)
    average = locus_average(arrays.accessibility, train)
    departure = expected_departure(arrays.accessibility, weights, average)
    known = np.flatnonzero(train & observed)
    middle = np.median(pdist(metadata[known].astype(np.float64), "sqeuclidean"))
    kernel = RBF(np.sqrt(middle / 2), "fixed")
    for cell in np.flatnonzero(observed):
        others = known[known != cell]
        process = GaussianProcessRegressor(kernel, alpha=0.2, optimizer=None)
        process.fit(metadata[others], (arrays.accessibility - average[:, [cell]])[:, others].swapaxes(0, 1).reshape(len(others), -1))
        expected = process.predict(metadata[[cell]]).reshape(departure[:, cell].shape)
        np.testing.assert_allclose(departure[:, cell], expected, atol=1e-5)
    assert (departure[:, 4] == 0).all() and np.abs(departure[:, :4]).max() > 0.01
    assert (state_weights(metadata, np.zeros(6, bool), train) == 0).all()
    assert (state_weights(np.zeros((6, 0), np.float32), observed, train) == 0).all()  # nothing tells them apart


def test_window_tracks_are_folds(dataset, arrays):
    table = window_tracks(dataset, 4, "B")
    assert table.columns.tolist() == ["accessibility", "H3K27ac", "H3K4me3", "CTCF"] and len(table) == 10
    np.testing.assert_allclose(table["accessibility"], np.sinh(arrays.accessibility[4, 1]), rtol=1e-5)
    assert table["H3K4me3"].isna().all() and table["CTCF"].notna().all()
    with pytest.raises(ChromaccError,
                       match="no track is called 'GATA1'; the dataset has: H3K27ac, H3K4me3, CTCF"):
        track_signal(dataset, "GATA1")


def test_window_summaries_are_those_of_the_bases(curated, dataset, arrays):
    summaries = window_summaries(dataset)
    assert summaries.shape == (len(arrays.windows), 6, 3, 3) and summaries.dtype == np.float32
    window = arrays.windows.iloc[5]
    with pyBigWig.open(str(curated[0].folder / "F/CTCF.bw")) as bigwig:
        start, end = int(window["start"]), int(window["end"])
        bases = bigwig.values(window["chrom"], start, end, numpy=True).astype(float)
    got = summaries.sel(cell_type="F", track="CTCF")[5]
    np.testing.assert_allclose(got, [bases.mean(), bases.var(), bases.max()], rtol=1e-5)
    assert summaries.sel(cell_type="B", track="H3K4me3").isnull().all()
    assert window_summaries(dataset, ["CTCF"]).equals(summaries.sel(track=["CTCF"]))


def test_truth_is_scaled_like_the_score(project):
    manifest = pd.read_csv(project.manifest, sep="\t", dtype=str)
    truth = manifest[(manifest["kind"] == "accessibility_signal") & (manifest["replicate"] == "1")]
    truth = truth[truth["cell_type"] != "B"].assign(assembly="simulated-tiny")
    manifest.assign(assembly="simulated-tiny").to_csv(project.manifest, sep="\t", index=False)
    truth.to_csv(project.folder / "truth.tsv", sep="\t", index=False)
    arrays = load_arrays(curate_project(project, truth_manifest=project.folder / "truth.tsv").path)
    assert arrays.simulated is True
    constants = read_normalization(project.folder / "dataset")
    assert constants["truth"] == {cell: means[0] for cell, means in constants["accessibility"].items() if cell != "B"}
    np.testing.assert_allclose(arrays.truth[:, 0], arrays.score_replicate[:, 0, 0], rtol=1e-6)
    assert np.isnan(arrays.truth[:, 1]).all() and np.isfinite(arrays.truth[:, 2:]).all()


# --- choices and refusals -----------------------------------------------------------------------------------
def test_tracks_that_training_cannot_teach_are_left_out_aloud(project):
    lines = [line for line in project.manifest.read_text().splitlines()
             if not ("CTCF.bw" in line and line[0] in "ABCF")]
    write_lines(project.manifest, *lines)
    said = []
    result = curate_project(project, say=said.append)
    dataset = open_dataset(result.path)
    assert dataset.sizes["tf_name"] == 0 and load_arrays(result.path).tf.shape[2:] == (0, 10, 3)
    assert any("tf tracks: kept 0 of 1" in line and "CTCF left out" in line for line in said)


def test_tracks_can_be_chosen_and_unknown_ones_are_refused(project):
    arrays = load_arrays(curate_project(project, replace(PARAMETERS, histone_marks=("H3K4me3",))).path)
    assert arrays.histone_marks == ("H3K4me3",)
    with pytest.raises(ChromaccError,
                       match="histone_marks: 1 of 1 unknown; got H3K9me3; needed histone tracks of the manifest: H3K27ac, H3K4me3"):
        curate_project(project, replace(PARAMETERS, histone_marks=("H3K9me3",)))


def test_without_expression_there_is_no_metadata(project):
    lines = [line for line in project.manifest.read_text().splitlines() if "\texpression\t" not in line]
    write_lines(project.manifest, *lines)
    arrays = load_arrays(curate_project(project).path)
    assert arrays.metadata.shape == (6, 0) and not arrays.metadata_observed.any() and arrays.features == ()


def test_no_background_and_no_validation_cell_types(project):
    parameters = replace(PARAMETERS, negatives_per_positive=0.0, validation_cell_types=("none",))
    arrays = load_arrays(curate_project(project, parameters).path)
    assert set(arrays.windows["kind"]) == {"peak"} and set(arrays.cell_types["split"]) == {"train", "test"}


def test_a_fold_of_leave_one_out_is_curated(project):
    """As the README says it: folds come from the manifest, and each gives the lists that curation takes."""
    table = read_manifest(project.manifest)
    folds = leave_one_out_folds(table, seed=1)
    pairs = table[["cell_type", "donor", "lineage"]].drop_duplicates()
    assert [fold.test_cell_types for fold in folds] == [(name,) for name in project.cell_types]
    assert folds == leave_one_out_folds(pairs, seed=1)
    fold = folds[2]
    result = curate_project(project, replace(PARAMETERS, **vars(fold)))
    assert result.summary["cell_types"]["test"] == ["C"]
    assert tuple(result.summary["cell_types"]["validation"]) == fold.validation_cell_types != ("none",)
    training = [name for name in "ABDEF" if name not in fold.validation_cell_types]
    assert read_normalization(result.path)["fitted_on"]["cell_types"] == training
    assert np.isfinite(load_arrays(result.path).score[:, 2]).all()


def test_tiles_of_a_fixed_grid(project):
    """Windows begin at multiples of their length; an element at 2,700..3,300 has 300 bp in each of two tiles."""
    tiled = replace(PARAMETERS, window_placement="tiled")
    result = curate_project(project, tiled)
    windows = load_arrays(result.path).windows
    assert (windows["start"] % 1_000 == 0).all() and not windows.duplicated(["chrom", "start"]).any()
    peaks = windows[windows["kind"] == "peak"]
    assert set(peaks["start"] % 6_000) == {2_000, 3_000} and (windows["kind"] == "background").any()
    arrays = load_arrays(result.path)
    assert (arrays.label[(windows["kind"] == "peak").to_numpy()] == 1).any(axis=1).all()
    assert (arrays.label[(windows["kind"] == "background").to_numpy()][:, arrays.train_mask] == 0).all()
    counts = {count["what"] for count in result.summary["counts"]}
    assert {"training peaks", "tiles", "peak tiles", "background candidates"} <= counts
    with pytest.raises(ChromaccError, match="no tile is left"):
        curate_project(project, replace(tiled, min_overlap_bp=301))


def test_labels_and_tiles_need_the_same_overlap(project):
    wide = load_arrays(curate_project(project, replace(PARAMETERS, min_overlap_bp=600)).path)
    assert (wide.label == 1).any()  # a window on a summit holds the whole element
    arrays = load_arrays(curate_project(project, replace(PARAMETERS, window_bp=500, min_overlap_bp=501)).path)
    assert not (arrays.label == 1).any()  # none can hold 501 bp of it


def test_background_can_be_matched_on_more_than_gc(project):
    sizes = project.sizes
    halves = {chrom: [(0, size // 2, 1.0), (size // 2, size, 0.5)] for chrom, size in sizes.items()}
    write_bigwig(project.folder / "map.bw", sizes, halves)
    write_lines(project.folder / "tss.bed", *(f"{chrom}\t30000\t30001" for chrom in sizes))
    chosen = replace(PARAMETERS, match_on=("gc", "mappability", "tss_distance"),
                     mappability=str(project.folder / "map.bw"), tss=str(project.folder / "tss.bed"))
    result = curate_project(project, chosen)
    for covariates in result.summary["match"].values():
        assert list(covariates) == ["gc", "mappability", "tss_distance"]
        assert {one["matched"] for one in covariates.values()} == {covariates["gc"]["matched"]}
    lock = pd.read_csv(result.path / "manifest.lock.tsv", sep="\t")
    assert {"mappability", "tss"} <= set(lock["kind"])
    write_lines(project.folder / "tss.bed", *(f"{chrom}\t30000\t30002" for chrom in sizes))
    assert curate_project(project, chosen).fresh
    with pytest.raises(ChromaccError, match="missing file"):
        curate_project(project, replace(chosen, tss=str(project.folder / "gone.bed")))
    with pytest.raises(ChromaccError, match="genome.fa: no soft-masking"):
        curate_project(project, replace(PARAMETERS, match_on=("repeats",)))
    for wrong in ({"window_placement": "tiles"}, {"match_on": ("tss",)}, {"match_on": ("mappability",)}):
        with pytest.raises(ChromaccError, match="window_placement|match_on"):
            replace(PARAMETERS, **wrong)


def test_a_file_of_tss_tells_how_far_windows_lie_and_is_not_matched_on(project):
    plain = curate_project(project, PARAMETERS)
    windows = load_arrays(plain.path).windows
    assert windows["tss_distance"].isna().all() and windows["tss_distance"].dtype == np.float32
    assert "tss_distance" not in open_dataset(plain.path)
    starts = {chrom: 30_000 for chrom in project.sizes if chrom != "chrT6"}
    tss = write_lines(project.folder / "tss.bed", *(f"{chrom}\t{at}\t{at + 1}" for chrom, at in starts.items()))
    told = curate_project(project, replace(PARAMETERS, tss=str(tss)))
    again = load_arrays(told.path).windows
    pd.testing.assert_frame_equal(again.drop(columns="tss_distance"), windows.drop(columns="tss_distance"))
    at = windows["chrom"].map(starts)
    expected = np.maximum(np.maximum(at - windows["end"], windows["start"] - (at + 1)), 0).astype(np.float32)
    np.testing.assert_array_equal(again["tss_distance"], expected)  # NaN on chrT6, where the file has none
    assert again["tss_distance"].dtype == np.float32 and (again["chrom"] == "chrT6").any()
    assert {"gc"} == {name for covariates in told.summary["match"].values() for name in covariates}


def test_gene_quantifications_of_encode_become_metadata(project):
    header = "gene_id\ttranscript_id(s)\tlength\teffective_length\texpected_count\tTPM\tFPKM"
    for number, name in enumerate("ABCDEF"):
        values = {"ENSG00000102974.16": number + 1, "ENSG00000102145.15": 10 * number, "ENSG00000000003.14": 5}
        write_lines(project.folder / name / "expression.tsv", header,
                    *(f"{gene}\tENST\t9.0\t8.0\t1.00\t{tpm}.00\t1.00" for gene, tpm in values.items()))
    said = []
    dataset = open_dataset(curate_project(project, say=said.append).path)
    assert dataset["feature"].values.tolist() == ["CTCF", "GATA1"]
    expected = [[np.log2(number + 2), np.log2(10 * number + 1)] for number in range(6)]
    np.testing.assert_allclose(dataset["metadata"].values, expected, rtol=1e-6)
    assert sum("kept 2 of 3 rows, because" in line for line in said) == 6
    names = write_lines(project.folder / "names.tsv", "gene_id\tgene_name", "ENSG00000000003\tTSPAN6")
    other = curate_project(project, replace(PARAMETERS, gene_names=str(names)))
    assert other.fresh and open_dataset(other.path)["feature"].values.tolist() == ["TSPAN6"]


def test_an_unknown_lineage_is_shown_as_such(project):
    text = project.manifest.read_text().splitlines()
    at = text[0].split("\t").index("lineage")
    rows = [line.split("\t") for line in text]
    write_lines(project.manifest, *("\t".join([*row[:at], "" if row[0] in "AB" else row[at], *row[at + 1:]])
                                    for row in rows))
    cells = load_arrays(curate_project(project).path).cell_types.set_index("cell_type")
    assert cells["lineage"].to_dict() == {
        "A": "unknown", "B": "unknown", "C": "even", "D": "odd", "E": "even", "F": "odd"}


def test_the_cap_is_kept_and_counted(project):
    result = curate_project(project, replace(PARAMETERS, max_positive_windows=12))
    assert sum(n for name, n in result.summary["windows"].items() if name.endswith("peak")) == 12
    assert any(c["kept"] == 12 and "max_positive_windows" in c["because"] for c in result.summary["counts"])


def test_bad_input_leaves_nothing_behind(project):
    (project.folder / "A/CTCF.bw").write_bytes(b"not a bigwig")
    (project.folder / "B/peaks.narrowPeak").write_text("chrT1\t9\t5\n")
    with pytest.raises(ChromaccError,
                       match="(?s)2 problem.*nothing was written.*A/CTCF.bw.*B/peaks.narrowPeak"):
        curate_project(project)
    assert not list(project.folder.glob("dataset*"))


def test_too_few_training_cell_types(project):
    parameters = replace(PARAMETERS, test_cell_types=tuple("ABC"), validation_cell_types=tuple("DE"))
    with pytest.raises(ChromaccError, match="1 training cell type of 6; at least 2 are needed"):
        curate_project(project, parameters)


# --- rerun, and folders that appear whole -------------------------------------------------------------------
def test_nothing_changed_does_nothing_and_says_so(project):
    first = curate_project(project)
    before = {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}
    said = []
    second = curate_project(project, say=said.append)
    assert first.fresh and not second.fresh and second.summary == json.loads(json.dumps(first.summary))
    assert said == [f"Nothing has changed since {first.path} was curated; it is used as it is."]
    assert before == {path: path.stat().st_mtime_ns for path in first.path.rglob("*")}


@pytest.mark.parametrize("change", ["parameter", "bigwig", "blacklist"])
def test_any_change_curates_again(project, change):
    curate_project(project)
    parameters = PARAMETERS
    if change == "parameter":
        parameters = replace(PARAMETERS, seed=2)
    elif change == "bigwig":
        shutil.copy(project.folder / "A/ATAC1.bw", project.folder / "A/ATAC2.bw")
    else:
        write_lines(project.blacklist, "chrT1\t2000\t4001")
    assert curate_project(project, parameters).fresh
    assert not list(project.folder.glob("dataset.*"))  # neither .partial nor .old


def test_same_seed_same_bytes(project):
    first = curate_project(project)
    before = open_dataset(first.path).load()
    texts = [(first.path / name).read_text()
             for name in ("curation.json", "normalization.json", "manifest.lock.tsv")]
    shutil.rmtree(first.path)
    second = curate_project(project, workers=2)
    assert open_dataset(second.path).load().identical(before)
    assert texts == [(second.path / name).read_text()
                     for name in ("curation.json", "normalization.json", "manifest.lock.tsv")]


def test_two_curations_of_one_folder_do_not_meet(project, tried):
    refused = []

    def say(line):
        if not refused:
            with pytest.raises(ChromaccError, match="dataset: another curation is writing there") as caught:
                curate_project(project)
            refused.append(str(caught.value))

    assert curate_project(project, say=say).fresh
    assert "Wait until it is done, which this one can then use, or give another dataset_dir" in refused[0]
    assert not curate_project(project).fresh, "free again, and what the other made is used"
    tried("two curations of one folder at once", refused[0])


def test_a_curation_that_was_killed_holds_nothing(project):
    script = ("import sys, time\nfrom pathlib import Path\nfrom chromacc_lib.curation import _alone\n"
              "with _alone(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n")
    with subprocess.Popen([sys.executable, "-c", script, project.folder / "dataset"], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ChromaccError, match="another curation is writing there"):
            curate_project(project)
        other.kill()
    assert curate_project(project).fresh


def test_what_an_interrupted_run_left_is_removed_aloud(project):
    partial = project.folder / "dataset.partial"
    partial.mkdir()
    (partial / "rubbish").touch()
    said = []
    result = curate_project(project, say=said.append)
    assert any("left by a run that was interrupted" in line for line in said)
    assert not partial.exists() and not (result.path / "rubbish").exists()


def test_a_finished_dataset_in_a_folder_that_cannot_be_written_is_used(project, read_only, tried):
    """Tracks, genome and dataset on read-only media; anything else than what is there is refused at once."""
    first, said = curate_project(project), []
    second = read_only(project.folder, lambda: curate_project(project, say=said.append))
    assert not second.fresh and second.summary == json.loads(json.dumps(first.summary)) and len(load_arrays(second.path).score)
    assert said == [f"Nothing has changed since {first.path} was curated; it is used as it is."]
    with pytest.raises(ChromaccError, match="cannot be written, and dataset there is a dataset of other input.*give a dataset_dir"):
        read_only(project.folder, lambda: curate_project(project, replace(PARAMETERS, seed=2)))
    shutil.rmtree(first.path)
    with pytest.raises(ChromaccError, match="cannot be written, and dataset there is no finished dataset"):
        read_only(project.folder, lambda: curate_project(project))
    assert not list(project.folder.glob("dataset*"))
    tried("a finished dataset in a read-only folder", "used without a lock; anything else is refused at once")


def test_a_dataset_that_is_not_there(tmp_path):
    with pytest.raises(ChromaccError, match="no dataset there; run notebook 01_data_curation"):
        open_dataset(tmp_path)
    with pytest.raises(ChromaccError, match="no dataset there"):
        load_arrays(tmp_path)


# --- real tracks --------------------------------------------------------------------------------------------
def test_real_tracks(real_folder, tmp_path):
    """K562 is held out; HepG2 has no histone marks, and TF data everywhere but on chr1."""
    parameters = CurationParameters(test_cell_types=("K562", ),
                                    validation_cell_types=("none", ),
                                    max_positive_windows=0,
                                    test_chromosomes=("chr17", "chr20"),
                                    validation_chromosomes=("chr2", ))
    result = curate(real_folder / "tracks.tsv",
                    real_folder / "hg38_subset.fa.gz",
                    tmp_path / "dataset",
                    parameters,
                    say=silent)
    arrays, dataset = load_arrays(result.path), open_dataset(result.path)
    cell = {name: i for i, name in enumerate(arrays.cell_types["cell_type"])}
    assert not arrays.simulated and arrays.cell_types["split"].tolist().count("train") == 3
    assert "GATA1" not in arrays.tfs  # measured in K562 only, which is held out
    on_chr1 = (arrays.windows["chrom"] == "chr1").to_numpy()
    assert not arrays.histone_observed[:, cell["HepG2"]].any()
    ctcf = arrays.tf_observed[:, cell["HepG2"], arrays.tfs.index("CTCF")]
    assert np.array_equal(ctcf, ~on_chr1)
    assert arrays.histone_observed[:, cell["K562"]].mean() > 0.9
    assert len(arrays.windows) > 2000 and (arrays.sequence < 4).mean() > 0.99
    open_share = (arrays.label == 1).mean(axis=0)
    assert ((open_share > 0.1) & (open_share < 0.6)).all()
    for row in (0, len(arrays.windows) // 2, len(arrays.windows) - 1):
        window = arrays.windows.iloc[row]
        with pyBigWig.open(str(real_folder / "K562/CTCF.bw")) as bigwig:
            values = np.nan_to_num(
                bigwig.values(window["chrom"], int(window["start"]), int(window["end"]), numpy=True))
        got = track_signal(dataset, "CTCF").sel(cell_type="K562", statistic="mean").values[row]
        np.testing.assert_allclose(got, values.reshape(15, 100).mean(axis=1, dtype=float), rtol=1e-6)
