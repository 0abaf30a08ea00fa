"""Normalisation: values worked by hand, maps that meet their reference, and errors that name the file."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wasserstein_distance

from chromacc_lib import ChromaccError
from chromacc_lib.dataset import open_dataset, read_normalization
from chromacc_lib.normalization import (
    LEVELS,
    METHODS,
    FileConstants,
    TrackConstants,
    TrackReference,
    fit_file,
    fit_track,
    normalise_tracks,
    scale_file,
    solve_s3norm,
    track_constants,
    track_problems,
)
from chromacc_lib.normalization_choice import compare_methods, compare_normalizations, explain_choice

RNG = np.random.default_rng(5)
PEAK = np.arange(200) % 2 == 0  # of 200 windows of 10 bins
NAMES = ["one", "two"]


def track(scale=1.0):
    """Return bin means of a track with strong peak windows, float32, (200, 10)."""
    return (scale * RNG.gamma(2.0, 0.5, (200, 10)) * np.where(PEAK, 6, 1)[:, None]).astype(np.float32)


def statistics(means):
    """Return mean, variance 0 and max of bins that are flat: (W, B) -> (W, B, 3)."""
    return np.stack([means, np.zeros_like(means), means], axis=-1)


def inner(scaled):
    """Return what arcsinh was taken of."""
    return np.sinh(scaled.astype(np.float64))


# --- by hand ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("method", "outer"), [("arcsinh", np.arcsinh), ("log1p", np.log1p)])
def test_normalise_tracks_by_hand(method, outer):
    raw = np.array([4.0, 9.0, 8.0], np.float32).reshape(1, 1, 1, 1, 3)  # mean 4, variance 9 (sd 3), max 8
    constants = TrackConstants(np.array([[1.0, 0.5, 0.0]]), np.array([[2.0, 1.0, 4.0]]), method,
                               (TrackReference(),))
    values, observed = normalise_tracks(raw, [[FileConstants(2.0)]], constants)
    expected = [(outer(2.0) - 1) / 2, outer(1.5) - 0.5, outer(4.0) / 4]
    np.testing.assert_allclose(values.ravel(), expected, rtol=1e-6)
    assert values.dtype == np.float32 and observed.tolist() == [[[True]]]


def test_log1p_of_a_negative_signal_is_finite_and_odd():
    raw = statistics(np.array([[-3.0, 3.0]], np.float32))
    scaled = scale_file(raw, FileConstants(1.0), TrackReference(), "log1p")
    np.testing.assert_allclose(scaled[0, :, 0], [-np.log(4), np.log(4)], rtol=1e-6)


def test_the_sd_goes_through_the_map_of_the_signal():
    raw = np.array([4.0, 9.0, 8.0], np.float32).reshape(1, 1, 3)  # in fold: mean 2, sd 1.5, max 4
    own = FileConstants(2.0, peak_mean=1.0, background_mean=1.0, alpha=3.0, beta=2.0)
    got = inner(scale_file(raw, own, TrackReference(), "s3norm"))
    np.testing.assert_allclose(got.ravel(), [3 * 2**2, 3 * (3.5**2 - 2**2), 3 * 4**2], rtol=1e-5)


def test_quantiles_by_hand():
    quantiles = np.linspace(1, 5, len(LEVELS))
    own = FileConstants(1.0, quantiles=tuple(quantiles))
    reference = TrackReference(quantiles=tuple(10 * quantiles))
    raw = statistics(np.array([[0.5, 1.0, 3.0, 5.0, 8.0, np.nan]], np.float32))
    got = inner(scale_file(raw, own, reference, "quantile"))[0, :, 0]
    np.testing.assert_allclose(got, [10, 10, 30, 50, 80, np.nan], rtol=1e-5)  # below: lowest; above: by ratio


def test_a_value_that_fills_levels_gets_their_mean_by_width():
    n = len(LEVELS)
    own = FileConstants(1.0, quantiles=(0.0,) + (0.5,) * 32 + tuple(np.linspace(1, 2, n - 33)))  # 32 levels up to 0.8
    reference = TrackReference(quantiles=tuple(LEVELS))
    got = inner(scale_file(statistics(np.full((1, 1), 0.5, np.float32)), own, reference, "quantile"))
    assert got[0, 0, 0] == pytest.approx(0.41, abs=0.01)


def test_no_signal_stays_no_signal_however_many_quantiles_it_fills():
    """Two sparse files, zero in 60% and in 90% of their bins: zero is one value in both, not the mean of its levels."""
    means = np.stack([track()] * 2, axis=1)
    means[:120, 0] = means[:180, 1] = 0
    files, reference = fit_track(means, np.ones(2), PEAK, np.array([True, True]), "quantile", NAMES)
    one, two = (scale_file(statistics(means[:, c]), files[c], reference, "quantile")[..., 0] for c in (0, 1))
    assert (one[:120] == 0).all() and (two[:180] == 0).all() and (one[120:] > 0).all() and (two[180:] > 0).all()


def test_missing_tracks_are_zero_and_not_observed():
    raw = np.ones((2, 2, 1, 3, 3), np.float32)
    raw[:, 1] = np.nan
    raw[1, 0] = np.nan
    constants = TrackConstants(np.zeros((1, 3)), np.ones((1, 3)), "arcsinh", (TrackReference(),))
    values, observed = normalise_tracks(raw, [[FileConstants(1.0)], [None]], constants)
    assert observed[:, :, 0].tolist() == [[True, False], [False, False]]
    assert (values[~observed[:, :, 0]] == 0).all() and (values[0, 0] != 0).all()


# --- maps that meet their reference -------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["quantile", "s3norm"])
def test_a_scaled_copy_falls_on_the_original(method):
    means = np.stack([track()] * 2, axis=1)  # (W, 2, B)
    means[:, 1] *= 7
    scales = means.mean(axis=(0, 2), dtype=np.float64)
    files, reference = fit_track(means, scales, PEAK, np.array([True, False]), method, NAMES)
    one, two = (scale_file(statistics(means[:, c]), files[c], reference, method) for c in (0, 1))
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(inner(one[..., 0]), means[:, 0] / scales[0], rtol=1e-4)  # and on its own fold


def test_quantile_undoes_a_rising_distortion():
    means = np.stack([track()] * 2, axis=1)
    means[:, 1] = np.sqrt(means[:, 1]) + means[:, 1] ** 2
    scales = means.mean(axis=(0, 2), dtype=np.float64)
    files, reference = fit_track(means, scales, PEAK, np.array([True, False]), "quantile", NAMES)
    one, two = (scale_file(statistics(means[:, c]), files[c], reference, "quantile")[..., 0] for c in (0, 1))
    assert np.abs(two - one).mean() < 0.01 < 0.1 < np.abs(
        np.arcsinh(means[:, 1] / scales[1]) - np.arcsinh(means[:, 0] / scales[0])).mean()


def test_s3norm_recovers_a_planted_alpha_and_beta():
    wanted = track().astype(np.float64)
    alpha, beta = 2.5, 0.6
    file = (wanted / alpha) ** (1 / beta)  # so that alpha * file**beta is what is wanted
    reference = TrackReference(peak_mean=wanted[PEAK].mean(), background_mean=wanted[~PEAK].mean())
    got = solve_s3norm(file[PEAK].ravel(), file[~PEAK].ravel(), reference, "x.bw")
    np.testing.assert_allclose(got, [alpha, beta], rtol=1e-9)


@pytest.mark.parametrize("method", ["quantile", "s3norm"])
def test_the_reference_is_the_mean_over_training_files(method):
    means = np.stack([track(), track(3), track(9)], axis=1)
    training, names = np.array([True, True, False]), [*NAMES, "new"]
    files, reference = fit_track(means, np.ones(3), PEAK, training, method, names)
    for name, value in reference._asdict().items():
        if value is not None:
            expected = np.mean([getattr(files[0], name), getattr(files[1], name)], axis=0)
            np.testing.assert_allclose(value, expected, rtol=1e-12)
    again = fit_file(means[:, 2], 1.0, PEAK, method, reference, "new")  # as a prediction does it
    assert again == files[2]


@pytest.mark.parametrize("method", METHODS)
def test_scaling_keeps_the_order(method):
    means = np.stack([track(), track() ** 1.3], axis=1)
    means[:20, 1] = 0
    files, reference = fit_track(means, np.array([2.0, 3.0]), PEAK, np.array([True, False]), method, NAMES)
    rising = statistics(np.linspace(0, 60, 3001, dtype=np.float32)[None])
    for own in files:
        scaled = scale_file(rising, own, reference, method)[0, :, 0]
        assert (np.diff(scaled) >= 0).all() and scaled[-1] > scaled[1500] > scaled[0]


def test_own_constants_do_not_depend_on_other_files():
    means = np.stack([track(), track()], axis=1)
    changed = means.copy()
    changed[:, 1] = track(50)
    for method in METHODS:
        before, after = (fit_track(values, np.ones(2), PEAK, np.array([True, False]), method, NAMES)
                         for values in (means, changed))
        assert before[0][0] == after[0][0] and before[1] == after[1]


# --- errors -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("method", ["quantile", "s3norm"])
@pytest.mark.parametrize(("value", "told"), [(0.0, "(100|200) of (100|200)"), (np.nan, "0 of (100|200)")])
def test_no_signal_under_the_windows_is_an_error_that_names_the_file(method, value, told):
    empty = np.full((200, 10), value, np.float32)
    found = rf"x.bw: too sparse for {method}; got a .* of 0, with data in {told} such windows .*; needed above 0"
    with pytest.raises(ChromaccError, match=found):
        fit_file(empty, 1.0, PEAK, method, TrackReference(), "x.bw")
    assert fit_file(empty, 1.0, PEAK, "log1p", TrackReference(), "x.bw") == FileConstants(1.0)


def test_s3norm_without_background_windows_says_so():
    with pytest.raises(ChromaccError, match="x.bw: .*mean under background windows of 0, .* 0 of 0 such"):
        fit_file(track(), 1.0, np.ones(200, bool), "s3norm", TrackReference(), "x.bw")


def test_s3norm_scales_a_track_without_contrast_by_depth_alone():
    """Also where just one training file has none; and for the unseen cell type as for the others."""
    flat = (track() / np.where(PEAK, 6, 1)[:, None]).astype(np.float32)
    means, scales = np.stack([track(), flat, track(5)], axis=1), np.array([1.0, 2.0, 3.0])
    training, names = np.array([True, True, False]), [*NAMES, "new"]
    files, reference = fit_track(means, scales, PEAK, training, "s3norm", names)
    assert reference == TrackReference() and {(file.alpha, file.beta) for file in files} == {(1.0, 1.0)}
    assert fit_file(means[:, 2], 3.0, PEAK, "s3norm", reference, "new") == files[2]
    raw = statistics(means[:, 2])
    plain, same = (scale_file(raw, files[2], reference, method) for method in ("arcsinh", "s3norm"))
    np.testing.assert_allclose(same, plain, rtol=1e-5)


def test_s3norm_serves_a_track_that_avoids_peaks():
    means = np.stack([1 / (track() + 1), 1 / (track() + 2)], axis=1).astype(np.float32)
    files, reference = fit_track(means, np.ones(2), PEAK, np.array([True, True]), "s3norm", NAMES)
    assert reference.peak_mean < reference.background_mean and files[0].beta != files[1].beta
    for c, own in enumerate(files):
        matched = own.alpha * means[:, c].astype(float) ** own.beta
        np.testing.assert_allclose([matched[PEAK].mean(), matched[~PEAK].mean()], reference[1:], rtol=1e-6)


def test_s3norm_without_a_solution_says_what_it_would_need():
    flat = np.ones(50)
    reference = TrackReference(peak_mean=3.0, background_mean=0.5)
    with pytest.raises(ChromaccError, match="x.bw: s3norm finds no beta .* to 8; got a mean fold of 1 under peak"):
        solve_s3norm(flat, flat, reference, "x.bw")


def test_constants_come_by_name_and_unknown_tracks_are_refused(curated):
    normalization = read_normalization(curated[1])
    constants = track_constants(normalization, ["CTCF", "H3K27ac"])
    assert constants.mean[0].tolist() == normalization["tracks"]["CTCF"]["mean"]
    assert constants.sd[1].tolist() == normalization["tracks"]["H3K27ac"]["sd"]
    assert constants.method == "arcsinh" and track_constants(normalization, []).mean.shape == (0, 3)
    with pytest.raises(ChromaccError,
                       match="no constants for GATA1; it was fitted for H3K27ac, H3K4me3, CTCF"):
        track_constants(normalization, ["CTCF", "GATA1"])


# --- comparison ---------------------------------------------------------------------------------------------
def test_the_distance_by_hand_and_refusals_are_told():
    means = np.zeros((4, 4, 1), np.float32)  # of four cell types, the last is held out, and the third not measured
    means[:, 1, 0] = [0, 2, 2, 2]  # pooled with the first: 5 zeros and 3 twos, sd sqrt(15) / 8 of the step between
    means[:, 2], means[:, 3] = np.nan, 9
    training, scales = np.array([True, True, True, False]), np.array([1, 2, np.nan, 1])
    comparison = compare_methods(statistics(means), scales, np.arange(4) < 2, training, ["one", "two", "no", "new"])
    # three quarters of the second are one step from the first, whatever the step is scaled to
    np.testing.assert_allclose(comparison.distance[["raw", "arcsinh", "log1p"]], 0.75 * 8 / np.sqrt(15), rtol=1e-6)
    alone = compare_methods(statistics(track()[:, None]), np.ones(1), PEAK, np.array([True]), ["one"])
    assert alone.distance.isna().all()  # there is nothing to compare it with
    assert {method: [p.file for p in found] for method, found in comparison.refused.items()} == {
        "quantile": ["one"], "s3norm": ["one", "new"]}  # no power of what is flat has a contrast
    assert comparison.distance[["quantile", "s3norm"]].isna().all() and "quantile" not in comparison.values


def test_the_distance_is_scipys_of_each_cell_type_to_the_others():
    means = np.round(np.stack([track(), track(2), track(1) ** 2], axis=1), 1)  # with ties
    scales = np.array([1.0, 2.0, 3.0])
    got = compare_methods(statistics(means), scales, PEAK, np.full(3, True), ["a", "b", "c"]).distance
    one_depth, own_depth = (np.arcsinh((means / depth).astype(np.float64)) for depth in (2, scales[:, None]))
    for name, values in {"raw": one_depth, "arcsinh": own_depth}.items():
        to_others = [wasserstein_distance(values[:, c].ravel(), np.delete(values, c, axis=1).ravel()) for c in range(3)]
        assert got[name] == pytest.approx(np.mean(to_others) / values.std(), rel=1e-5) and got[name] > 0.05


def test_every_track_is_compared_on_windows_of_training_chromosomes(curated):
    dataset = open_dataset(curated[1])
    comparisons = compare_normalizations(dataset)
    assert list(comparisons) == ["H3K27ac", "H3K4me3", "CTCF"]
    n_train = int((dataset["window_split"] == "train").sum())
    for name, one in comparisons.items():
        assert one.distance.index.tolist() == ["raw", *METHODS] == list(one.values) and not one.refused
        assert one.distance["raw"] > 2 * one.distance["arcsinh"] > 0, name  # depths differ, and are taken out
        assert one.distance["quantile"] < one.distance["arcsinh"] and len(one.values["raw"]) == n_train
    assert all(np.isnan(array[:, 1]).all() for array in comparisons["H3K4me3"].values.values())  # B lacks it
    few = compare_normalizations(dataset, max_windows=7)["CTCF"].values["raw"]
    assert len(few) == 7 and np.array_equal(few[-1], comparisons["CTCF"].values["raw"][-1], equal_nan=True)


def test_the_choice_is_explained_by_means_over_the_tracks_that_all_can_take():
    columns = ["raw", "arcsinh", "log1p", "quantile", "s3norm"]
    distance = pd.DataFrame([[0.5, 0.2, 0.4, 0.1, 0.3], [0.9, 0.6, 0.6, 0.1, 0.3], [1, 1, 1, 1, np.nan]],
                            index=["CTCF", "H3K27ac", "GATA1"], columns=columns)
    text = explain_choice(distance, "arcsinh")
    assert text.startswith("**This run uses `arcsinh`**") and "evens out the depth" in text
    assert "Over 2 tracks, the mean distance between training cell types is 0.700 sd in raw files and 0.400 sd" in text
    assert "it is smaller under `quantile` (0.100) and `s3norm` (0.300). Smaller is not better" in text
    text = explain_choice(distance.iloc[:1], "quantile")
    assert "Over 1 track, " in text and "0.100 sd under `quantile`; it is smaller under no other method." in text
    assert "as alike as their distinct values allow, by construction" in text
    assert "No track can be taken by every method" in explain_choice(distance.iloc[2:], "s3norm")


def test_a_track_lists_all_files_that_are_refused_and_averages_the_others():
    means = np.stack([track(), track(2), track(3), track(4)], axis=1)
    means[:, 1:3] = 0
    training, names = np.array([True, True, False, True]), ["a", "b", "c", "d"]
    for method in ("quantile", "s3norm"):
        problems = track_problems(means, np.ones(4), PEAK, training, method, names)
        assert [problem.file for problem in problems] == ["b", "c"]
        with pytest.raises(ChromaccError, match="(?s)2 problem.*1. b: too sparse.*2. c: too sparse.*arcsinh"):
            fit_track(means, np.ones(4), PEAK, training, method, names)
    assert track_problems(means, np.ones(4), PEAK, training, "arcsinh", names) == []
