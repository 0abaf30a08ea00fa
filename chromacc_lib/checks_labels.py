"""Checks of the labels against the inputs: do they belong together, window by window and cell type by cell type?

Labels here are the scores and their profiles; inputs are the tracks and the sequence. `agreement` asks whether they go
together in place, at other places and in other cell types, without a fitted model; `ridge_signal` and `floor` fit one.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.stats import ks_2samp
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import GroupKFold

from chromacc_lib.checks import FEW_WINDOWS, Check, Table, flat, judge, not_run, pearson
from chromacc_lib.checks_inputs import Sample, centre_by_cell_type, centre_twice, match_matrix
from chromacc_lib.dataset import Arrays

__all__ = ["agreement", "displacement", "information_left", "label_checks", "LABEL_NAMES", "ridge_signal", "scanned"]

N_PERMUTATIONS = 200
MAX_SCAN = 30_000       # windows, in stretches of chromosomes, whose tracks are held against scores elsewhere
SCAN_WINDOWS = 40       # how far the scan goes to either side, in windows
FAR_WINDOWS = 400       # how far it goes on a chromosome where it found nothing within these
FEW_PAIRS = 20          # pairs of windows, below which a distance is not looked at
STANDS_OUT = 8.0        # robust standard deviations of the curve by which a peak of the scan must stand out
FEW_LEFT = 200          # windows, for a ridge regression of what is left
FLOOR_ROWS = 6_000      # rows that the boosting of the floor is fitted on

LABEL_NAMES = ("window offset", "assembly", "labels of each cell type", "labels in their cell type",
               "labels look measured", "label signal", "cell-type signal", "floor")


def label_checks(arrays: Arrays | None, sample: Sample | None, table: Table, seed: int) -> list[Check]:
    """Run the checks; without a dataset, say of each that it was not run."""
    if arrays is None:
        return [not_run(name, "data", "no dataset was given") for name in LABEL_NAMES]
    return [*_check_displacement(arrays), _check_each_cell_type(sample), _check_own_cell_type(sample),
            _check_measured(sample), *_check_label_signal(sample, seed), _check_floor(sample, arrays, table, seed)]


# --- do inputs and labels lie at the same place? -------------------------------------------------------------
def agreement(tracks: np.ndarray, score: np.ndarray) -> float:
    """Return how well tracks (n, C, F) and scores (n, C) go together: root mean square over tracks of Pearson's r.

    Needs no fit and no sign: a repressive mark counts like an activating one. NaN entries are left out; NaN without
    any track that varies.
    """
    r = [pearson(tracks[:, :, f].ravel(), score.ravel()) for f in range(tracks.shape[2])]
    r = [value for value in r if math.isfinite(value)]
    return math.sqrt(float(np.mean(np.square(r)))) if r else math.nan


@dataclass(frozen=True)
class _Scan:
    """One chromosome: shift in windows -> agreement of tracks with scores that lie so many windows further on."""

    chrom: str
    curve: dict[int, float]

    def peak(self) -> int | None:
        """The shift where tracks and scores agree, None where they agree nowhere better than elsewhere by chance."""
        shifts, values = np.array(list(self.curve)), np.array(list(self.curve.values()))
        best = int(values.argmax())
        others = values[np.abs(shifts - shifts[best]) > 1]
        middle = np.median(others)
        spread = 1.4826 * np.median(np.abs(others - middle))
        if self.curve[0] > middle + STANDS_OUT / 2 * spread and self.curve[0] > 0.8 * values[best]:
            return 0  # in place is where they are expected to agree, so less is asked of it
        return int(shifts[best]) if values[best] > middle + STANDS_OUT * spread else None


def displacement(windows: pd.DataFrame, tracks: np.ndarray, score: np.ndarray, reach: int = SCAN_WINDOWS) -> list[_Scan]:
    """Hold tracks (W, C, F; window means) against scores (W, C) of windows up to `reach` windows away.

    A cross-correlation along the chromosome, as strand shifts are found in ChIP-seq (Kharchenko et al. 2008, Nat.
    Biotechnol. 26:1351), whose background is the curve itself at all other distances. windows: chrom, start, end.
    One entry a chromosome of which enough windows have a neighbour at enough distances.
    """
    length = float((windows["end"] - windows["start"]).iloc[0])
    out = []
    for chrom, rows in windows.reset_index(drop=True).sort_values("start").groupby("chrom", sort=False):
        at, start = rows.index.to_numpy(), rows["start"].to_numpy()
        x = tracks[at] - _mean(tracks[at])
        y = score[at] - _mean(score[at])
        curve = {}
        for shift in range(-reach, reach + 1):
            partner, near = _nearest(start, start + shift * length, length / 2)
            if near.sum() >= FEW_PAIRS:
                curve[shift] = agreement(x[near], y[partner[near]])
        curve = {shift: value for shift, value in curve.items() if math.isfinite(value)}
        if 0 in curve and len(curve) > SCAN_WINDOWS:
            out.append(_Scan(str(chrom), curve))
    return out


def _mean(values: np.ndarray) -> np.ndarray:
    """Mean over windows of what is known, (1, ...); 0 where nothing is."""
    known = np.isfinite(values)
    return np.where(known, values, 0).sum(0, keepdims=True) / np.maximum(known.sum(0, keepdims=True), 1)


def _nearest(start: np.ndarray, wanted: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
    """Index of the start nearest to each wanted place, and whether it lies at most so many bp away; start: sorted."""
    right = np.clip(np.searchsorted(start, wanted), 0, len(start) - 1)
    left = np.maximum(right - 1, 0)
    index = np.where(np.abs(start[left] - wanted) <= np.abs(start[right] - wanted), left, right)
    return index, np.abs(start[index] - wanted) <= most


def _scan_means(arrays: Arrays, rows: np.ndarray) -> np.ndarray:
    """Window means (n, C, F) of all tracks in some windows; NaN where a track is missing."""
    parts = []
    for values, observed in ((arrays.histone, arrays.histone_observed), (arrays.tf, arrays.tf_observed)):
        parts.append(np.where(observed[rows], values[rows][..., 0].mean(axis=3), np.nan))
    return np.concatenate(parts, axis=2)


def _check_displacement(arrays: Arrays) -> list[Check]:
    """Are inputs and labels of the same place? See `displacement`; and does a track hold nothing on a chromosome?

    One shift on all chromosomes is a shift; shifts that differ from chromosome to chromosome, or chromosomes without
    any agreement beside others with it, are another assembly, or chromosomes of other names.
    """
    names = ("window offset", "assembly")
    places = arrays.windows.reset_index(drop=True)
    most = max(1, MAX_SCAN // places["chrom"].nunique())
    rows = np.sort(np.concatenate([g.sort_values("start").index[:most] for _, g in places.groupby("chrom")]))
    means = _scan_means(arrays, rows)
    empty = _empty_chromosomes(arrays, means, places.iloc[rows])
    scans = scanned(places.iloc[rows], means, arrays.score[rows].astype(float)) if means.shape[2] else []
    if len(scans) < 2:
        return [not_run(name, "data", "too few windows with neighbours on two chromosomes, or no tracks")
                for name in names]
    bp = float((places["end"] - places["start"]).iloc[0])
    peaks = {scan.chrom: scan.peak() for scan in scans}
    moved = {chrom: peak for chrom, peak in peaks.items() if peak}
    silent = [chrom for chrom, peak in peaks.items() if peak is None]
    reach = FAR_WINDOWS if silent else SCAN_WINDOWS
    alike = len(moved) >= 2 and np.ptp(list(moved.values())) <= 1 and len(moved) > len(scans) / 2
    value = float(np.median(list(moved.values()))) * bp if alike else 0.0
    detail = {"curves": {s.chrom: {k * bp: r for k, r in s.curve.items()} for s in scans}}
    listed = ", ".join(f"{chrom} {peak * bp:+.0f} bp" for chrom, peak in list(moved.items())[:6])
    offset = Check(
        names[0], "data", value, "shift in bp at which inputs and labels agree on all chromosomes: fail when it is not 0 "
        f"(searched to ±{reach * bp:.0f} bp)", "fail" if alike else "ok",
        f"Labels lie about {value:+.0f} bp (±{bp / 2:.0f}) from where the inputs say, on {len(moved)} of {len(scans)} "
        "chromosomes." if alike
        else f"No one shift puts labels and inputs together better than none on {len(scans)} chromosomes.", detail)
    # One in so many chromosomes may be silent or stray by chance. Where most are silent, labels out of order or without
    # signal look the same as another assembly.
    mute = len(silent) > len(scans) / 2
    wrong = [] if alike or mute else [*moved, *silent]
    verdict = "fail" if empty or len(wrong) > max(1, 0.15 * len(scans)) else "warn" if wrong or mute else "ok"
    said = [f"labels agree with the inputs at another place on {len(moved)} of {len(scans)} chromosomes ({listed})"] * (
        bool(moved) and bool(wrong)) + [f"nowhere on {', '.join(silent[:6])}"] * (bool(silent) and bool(wrong)) + \
        [f"tracks hold nothing on a whole chromosome: {'; '.join(empty[:4])}"] * bool(empty)
    return [offset, Check(
        names[1], "data", float(len(wrong) + len(empty)), "chromosomes whose labels agree with the inputs elsewhere, or "
        "nowhere, and tracks that are empty on a whole chromosome: fail above one in seven, or for an empty track",
        verdict, f"Chromosome by chromosome: {'; '.join(said)}." if said else
        f"On {len(silent)} of {len(scans)} chromosomes labels and inputs agree at no place within ±{reach * bp:.0f} bp: "
        "labels without signal or out of order look like this, and so does another assembly." if silent else
        f"On all {len(scans)} chromosomes labels and inputs agree where they lie" + (", once shifted." if alike else "."),
        {"peaks": {c: None if p is None else p * bp for c, p in peaks.items()}, "empty": empty})]


def scanned(windows: pd.DataFrame, tracks: np.ndarray, score: np.ndarray) -> list[_Scan]:
    """`displacement`, and again, ten times as far, on the chromosomes where it finds no agreement at all."""
    scans = displacement(windows, tracks, score)
    silent = windows["chrom"].isin([scan.chrom for scan in scans if scan.peak() is None]).to_numpy()
    again = displacement(windows[silent], tracks[silent], score[silent], FAR_WINDOWS) if silent.any() else []
    far = {scan.chrom: scan for scan in again}
    return [far.get(scan.chrom, scan) for scan in scans]


def _empty_chromosomes(arrays: Arrays, means: np.ndarray, windows: pd.DataFrame) -> list[str]:
    """Return the tracks without any variation on a chromosome where, by the others, 20 windows would have some."""
    out, names = [], (*arrays.histone_marks, *arrays.tfs)
    chrom, cells = windows["chrom"].to_numpy(), arrays.cell_types["cell_type"].to_numpy()
    for f, c in np.ndindex(len(names), len(cells)):
        x = means[:, c, f]
        here = pd.Series(x).groupby(chrom)
        known = here.count()
        flat_on = known.index[(known >= FEW_PAIRS) & (here.max() - here.min() <= 1e-6)]
        for name in flat_on:
            others = x[(chrom != name) & np.isfinite(x)]
            if len(others) and (np.abs(others - np.median(x[chrom == name])) > 1e-6).mean() * known[name] >= 20:
                out.append(f"{names[f]} in {cells[c]} on {name}")
    return out


# --- do they belong to the same cell type? -------------------------------------------------------------------
def _check_each_cell_type(sample: Sample) -> Check:
    """Do the labels of every cell type follow its inputs and what other cell types show at the locus?

    A cell type whose labels follow neither, while those of the others do, has them in another order. A follow-up of
    `agreement` against chance, 2 / sqrt(windows).
    """
    name, n = "labels of each cell type", len(sample.windows)
    means = _means(sample)
    if means.shape[2] == 0 or len(sample.names) < 3:
        return not_run(name, "data", "fewer than three cell types, or no tracks")
    if n < FEW_WINDOWS:
        return not_run(name, "data", f"{n} windows, fewer than {FEW_WINDOWS}")
    own = np.array([agreement(means[:, [c]], sample.score[:, [c]]) for c in range(len(sample.names))])
    others = np.array([pearson(sample.score[:, c], _mean_of(np.delete(sample.score, c, 1)))
                       for c in range(len(sample.names))])
    chance = 2 / math.sqrt(n)
    known = np.isfinite(own) & np.isfinite(others)
    lost = known & (own < chance) & (others < max(chance, 0.25 * np.nanquantile(others, 0.75)))
    enough = np.nanquantile(own, 0.75) > 1.5 * chance
    if not known.any() or (not enough and not lost.all()):
        return not_run(name, "data", "the tracks follow the scores too little in most cell types to single one out")
    value = float(lost.sum() / known.sum())
    words = [sample.names[c] for c in np.flatnonzero(lost)]
    return Check(name, "data", value, "share of cell types whose labels follow neither their inputs nor other cell types: "
                 "fail above 0", "fail" if lost.any() else "ok",
                 f"In {len(words)} of {int(known.sum())} cell types labels follow neither the inputs (chance "
                 f"{chance:.2f}) nor the other cell types{': ' + ', '.join(words[:5]) if words else ''}.",
                 {"agreement": dict(zip(sample.names, own)), "others": dict(zip(sample.names, others))})


def _mean_of(values: np.ndarray) -> np.ndarray:
    """Mean over cell types (W, C) -> (W,) of what is known; NaN where nothing is."""
    known = np.isfinite(values)
    return np.where(known.any(1), np.where(known, values, 0).sum(1) / np.maximum(known.sum(1), 1), np.nan)


def _means(sample: Sample) -> np.ndarray:
    """Window means (W, C, F) of the sample's tracks; NaN where missing."""
    parts = [values[..., 0].mean(axis=2) for values in sample.tracks.values()]
    return np.stack(parts, axis=2) if parts else np.zeros((*sample.score.shape, 0))


def _check_own_cell_type(sample: Sample) -> Check:
    """Do labels fit the inputs of their own cell type better than those of another one?

    How the tracks of a cell type differ from those of the others at a locus is held against how the labels of every
    cell type do (`match_matrix`). Where the best fit is another cell type, labels were given to the wrong one.
    """
    name, n_cells = "labels in their cell type", len(sample.names)
    if n_cells < 3 or not sample.tracks:
        return not_run(name, "data", "fewer than three cell types, or no tracks")
    matches = [match_matrix(values, sample.score) for values in np.moveaxis(_filled(sample), 2, 0)]
    # Tracks count by how far they single out any cell type at all: most TFs say little of most cell types.
    match = sum(m * np.abs(m).max() for m in matches) / sum(np.abs(m).max() for m in matches)
    noise, best = 1 / math.sqrt(len(sample.windows)), match.argmax(axis=1)
    gain = match.max(axis=1) - np.diag(match)
    wrong = np.flatnonzero((best != np.arange(n_cells)) & (gain > 4 * noise))
    pairs = [f"the inputs of {sample.names[a]} fit the labels of {sample.names[best[a]]}" for a in wrong]
    return Check(name, "data", float(len(wrong)), f"cell types whose inputs fit another one's labels better by "
                 f"{4 * noise:.2g} of correlation: fail from 2 on", "fail" if len(wrong) >= 2 else "warn" if len(wrong)
                 else "ok", f"{'; '.join(pairs[:4]).capitalize()}." if pairs else
                 f"In all {n_cells} cell types the inputs fit their own labels best.", {"match": match})


def _filled(sample: Sample) -> np.ndarray:
    """Window means (W, C, F); a missing one is the mean of the cell types that are known."""
    means = _means(sample)
    known = np.isfinite(means)
    spread = np.sqrt((np.where(known, means - _mean(means), 0) ** 2).sum(0) / np.maximum(known.sum(0), 1))
    means = (means - _mean(means)) / np.maximum(spread, 1e-9)  # so that no unit has a say
    middle = np.where(known, means, 0).sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1)
    return np.where(known, means, middle)


def _check_measured(sample: Sample) -> Check:
    """Do the labels look like a measurement, or like numbers drawn at random?

    Neighbouring bins of a measured profile resemble each other, and scores have the distribution of the profiles that
    they are means of (two-sample Kolmogorov-Smirnov distance). Permuting labels changes neither.
    """
    profile = sample.accessibility
    shape = profile - profile.mean(axis=2, keepdims=True)
    shape = shape - np.nanmean(shape, axis=0, keepdims=True)
    r = pearson(shape[..., 1:].ravel(), shape[..., :-1].ravel())
    means, score = np.arcsinh(np.sinh(profile).mean(axis=2)).ravel(), sample.score.ravel()
    both = np.isfinite(means) & np.isfinite(score)
    apart = float(ks_2samp(means[both], score[both], method="asymp").statistic) if both.any() else 1.0
    value = 0.0 if not math.isfinite(r) or apart > 0.2 else r
    words = "the profiles have no shape" if not math.isfinite(r) else f"neighbouring bins correlate at {r:.2f}"
    return Check("labels look measured", "data", value, "r of neighbouring bins of a profile (0 when scores are not "
                 "distributed as their profiles' means): warn below 0.3, fail below 0.1", judge(value, 0.3, 0.1),
                 f"Of the accessibility profiles, {words}; scores and profile means differ in distribution by {apart:.2f} "
                 "(0 = not at all, 1 = entirely).")


# --- can the labels be learned at all? -----------------------------------------------------------------------
def _check_label_signal(sample: Sample, seed: int) -> list[Check]:
    """Can ridge regression on the inputs predict the scores on other chromosomes better than permuted scores?

    A label-permutation null after Ojala & Garriga (2010), J. Mach. Learn. Res. 11:1833. Scores are centred by cell
    type; whole windows are permuted, so that what cell types share at a locus stays together. The second check
    centres by window as well, and asks for what is particular to the cell type.
    """
    groups = _groups(sample.windows)
    whole = centre_by_cell_type(sample.score)
    features = _features(sample)
    out = [_signal_check("label signal", "the scores", features, whole, groups, seed)]
    if not sample.tracks and out[0].verdict == "fail":  # of DNA, trinucleotides are not all that there is to be read
        out = [replace(out[0], verdict="warn")]
    if len(sample.names) < 3 or not sample.tracks:
        return [*out, not_run("cell-type signal", "data", "fewer than three cell types, or no tracks")]
    own = _track_features(sample)
    own = own - own.mean(axis=1, keepdims=True)
    return [*out, _signal_check("cell-type signal", "how a cell type differs from the others at a locus", own,
                                centre_twice(sample.score), groups, seed)]


def _check_floor(sample: Sample, arrays: Arrays, table: Table, seed: int) -> Check:
    """Does the model beat what ridge regression and gradient boosting reach with the inputs alone, on the same rows?

    Both are fitted on training cell types x training chromosomes of the sample and tried on its headline rows; the
    better one is a floor for any model that learned (scikit-learn's HistGradientBoostingRegressor, after Ke et al.
    2017, LightGBM, NeurIPS).
    """
    name = "floor"
    cells = arrays.cell_types.set_index("cell_type")["split"].reindex(sample.names).to_numpy()
    split = sample.windows["split"].to_numpy()
    features, score = _features(sample), sample.score
    fit = np.outer(split == "train", cells == "train") & np.isfinite(score)
    given = table.headline.pivot(index="window", columns="cell_type", values="predicted_score")
    given = given.reindex(index=sample.index, columns=sample.names).to_numpy(float)
    judged = np.isfinite(given) & np.isfinite(score) & ~fit
    if fit.sum() < 200 or judged.sum() < 100:
        return not_run(name, "data", f"{int(fit.sum())} training rows and {int(judged.sum())} headline rows in the "
                       "sample; 200 and 100 are needed")
    rows = np.random.default_rng(seed).permutation(np.flatnonzero(fit.ravel()))[:FLOOR_ROWS]
    x, y, flat_x = features.reshape(-1, features.shape[2]), score.ravel(), judged.ravel()
    boosting = HistGradientBoostingRegressor(max_iter=60, learning_rate=0.15, max_leaf_nodes=15, random_state=seed)
    predicted = {"boosting": boosting.fit(x[rows], y[rows]).predict(x[flat_x])}
    centre, spread = x[rows].mean(0), np.where(x[rows].std(0) > 1e-9, x[rows].std(0), 1.0)
    z, mean = (x[rows] - centre) / spread, y[rows].mean()
    weights = np.linalg.solve(z.T @ z + z.shape[1] * np.eye(z.shape[1]), z.T @ (y[rows] - mean))
    predicted["ridge"] = (x[flat_x] - centre) / spread @ weights + mean
    r = {kind: pearson(values, y[flat_x]) for kind, values in predicted.items()}
    best = max(r, key=lambda kind: np.nan_to_num(r[kind], nan=-1.0))
    model, value = pearson(given.ravel()[flat_x], y[flat_x]), float(np.nan_to_num(r[best]))
    short = value - float(np.nan_to_num(model))
    return Check(name, "data", value, "r of the better of ridge and boosting: warn when the model lies 0.05 below it, "
                 "fail 0.2 below", judge(short, 0.05, 0.2),
                 f"On {int(judged.sum())} rows of {table.scope}, from the inputs alone ridge regression reaches r = "
                 f"{r['ridge']:.3f} and gradient boosting {r['boosting']:.3f}; the model reaches {model:.3f}.",
                 {"model": model, **r})


def information_left(sample: Sample | None, table: Table, dead: tuple[str, ...], seed: int) -> Check:
    """Does what the model got wrong follow from an input that it has? Then it did not make use of that input.

    Ridge regression of the residual (score - prediction) on each kind of input, on chromosomes not fitted on, against
    permuted windows; on windows whose rows the table has. dead: modalities that the model does not use, if that is known:
    an input that it leaves alone matters only if something is left in it.
    """
    name = "information left"
    if sample is None:
        return not_run(name, "model", "no dataset was given")
    given = table.rows.pivot(index="window", columns="cell_type", values="predicted_score")
    given = given.reindex(index=sample.index, columns=sample.names).to_numpy(float)
    residual = sample.score - given
    rows = np.flatnonzero(np.isfinite(residual).mean(axis=1) > 0.5)
    groups = _groups(sample.windows.iloc[rows]) if len(rows) else np.zeros(0)
    if len(rows) < FEW_LEFT or len(np.unique(groups)) < 2:
        return not_run(name, "model", f"{len(rows)} windows have predictions in most cell types; {FEW_LEFT} are needed")
    n_tracks, features = 4 * len(sample.tracks), _features(sample)[rows]
    kinds = {"tracks": features[..., :n_tracks], "sequence": features[..., n_tracks:]}
    found = {}
    for kind, x in kinds.items():
        if x.shape[2]:
            r, null = ridge_signal(x, centre_by_cell_type(residual[rows]), groups, seed, 100)
            found[kind] = (r - float(np.quantile(null, 0.99)), r)
    return _judge_left(name, found, len(rows), dead)


def _judge_left(name: str, found: dict[str, tuple[float, float]], n_windows: int, dead: tuple[str, ...]) -> Check:
    """Judge what is left by the kinds of the modalities that the model does not use, or by all kinds when it uses all.

    found: kind -> (r beyond chance, r). Metadata and the locus prior are no kind of a ridge regression over windows: of
    a model that leaves one of them alone it is not known that nothing is lost, so that counts as a failure.
    """
    kinds = {"sequence" if modality == "sequence" else "tracks" for modality in dead} & set(found) or set(found)
    best = max(kinds, key=lambda kind: found[kind][0])
    beyond, value = found[best]
    verdict = "ok" if beyond <= 0 or value < 0.1 else "warn" if value < 0.2 else "fail"
    if {"metadata", "prior"} & set(dead):
        verdict = "fail"
    return Check(name, "model", value, "r of the residual with its ridge prediction from an input that the model leaves "
                 "alone, or from any: ok within permuted windows' 99% or below 0.1, fail from 0.2, or when it leaves "
                 "metadata or the locus average alone", verdict,
                 f"What the model got wrong can be predicted at r = {value:.3f} from {best} ({n_windows} windows).",
                 {kind: r for kind, (_, r) in found.items()})


def _signal_check(name: str, what: str, features: np.ndarray, target: np.ndarray, groups: np.ndarray,
                  seed: int) -> Check:
    """Judge one cross-validated ridge against its permutation null."""
    if flat(target):
        return not_run(name, "data", "the scores do not vary")
    r, null = ridge_signal(features, target, groups, seed)
    chance, p = float(np.quantile(null, 0.99)), float((1 + (null >= r).sum()) / (1 + len(null)))
    if chance > 0.25:
        return not_run(name, "data", f"with {len(target)} windows chance alone reaches r = {chance:.2f}")
    verdict = "fail" if p > 0.01 or r < 0.03 else "warn" if r < 0.15 else "ok"
    how = "cannot be predicted better than by chance" if verdict == "fail" else "can be predicted"
    return Check(name, "data", r, "cross-validated r of a ridge: fail when p > 0.01 against permuted labels or r < "
                 "0.03, warn below 0.15", verdict,
                 f"From the inputs, {what} {how}: a ridge regression reaches r = {r:.3f} on chromosomes it has not "
                 f"seen, permuted labels reach {chance:.3f} (99% quantile, p = {p:.2g}).", {"null": null})


def ridge_signal(features: np.ndarray, target: np.ndarray, groups: np.ndarray, seed: int,
                 n_permutations: int = N_PERMUTATIONS) -> tuple[float, np.ndarray]:
    """Return r between target and its out-of-group ridge prediction, and the same for permuted targets.

    features (W, C, F), target (W, C), groups (W,): windows of one group are held out together. All permutations
    are solved at once, since they share the features; the penalty is one per feature, mild against W * C rows.
    Raises ValueError (GroupKFold) below two groups.
    """
    rng = np.random.default_rng(seed)
    n_windows, n_cells = target.shape
    orders = [np.arange(n_windows), *(rng.permutation(n_windows) for _ in range(n_permutations))]
    y = np.stack([target[order].ravel() for order in orders], axis=1)              # (W * C, 1 + P)
    x = features.reshape(n_windows * n_cells, -1).astype(float)
    x = np.column_stack([(x - x.mean(0)) / np.where(x.std(0) > 1e-9, x.std(0), 1.0), np.ones(len(x))])
    predicted = np.zeros_like(y)
    rows = np.repeat(groups, n_cells)
    for train, test in GroupKFold(min(5, len(np.unique(groups)))).split(x, groups=rows):
        gram = x[train].T @ x[train] + x.shape[1] * np.eye(x.shape[1])
        predicted[test] = x[test] @ np.linalg.solve(gram, x[train].T @ y[train])
    predicted -= predicted.mean(0)
    y = y - y.mean(0)
    scale = np.sqrt((predicted**2).sum(0) * (y**2).sum(0))
    r = np.divide((predicted * y).sum(0), scale, out=np.zeros(y.shape[1]), where=scale > 1e-12)
    return float(r[0]), r[1:]


def _groups(windows: pd.DataFrame) -> np.ndarray:
    """Return a group a window: its chromosome, or one of five stretches when all lie on one chromosome."""
    codes = pd.factorize(windows["chrom"])[0]
    if codes.max() > 0:
        return codes
    return (windows["start"].rank(method="first").to_numpy() - 1) * 5 // len(windows)


def _features(sample: Sample) -> np.ndarray:
    """Return (W, C, F): track features, and counts of the 64 trinucleotides, which GC is a sum of, in the window's sequence."""
    n_windows, n_cells = sample.score.shape
    codes = sample.sequence.astype(np.int16)
    known = codes < 4
    known = known[:, :-2] & known[:, 1:-1] & known[:, 2:]
    triplet = codes[:, :-2] * 16 + codes[:, 1:-1] * 4 + codes[:, 2:] + 64 * np.arange(n_windows, dtype=np.int64)[:, None]
    kmers = np.bincount(triplet[known], minlength=64 * n_windows).reshape(n_windows, 64).astype(float)
    shared = np.broadcast_to(kmers[:, None], (n_windows, n_cells, 64))
    return np.concatenate([_track_features(sample), shared], axis=2)


def _track_features(sample: Sample) -> np.ndarray:
    """Return (W, C, 4 * tracks): the three statistics averaged over bins, and whether the track is known."""
    parts = [np.zeros((*sample.score.shape, 0))]
    for values in sample.tracks.values():
        means = values.mean(axis=2)                                                 # (W, C, B, 3) -> (W, C, 3)
        known = np.isfinite(means).all(axis=2, keepdims=True)
        parts.append(np.concatenate([np.where(known, means, 0.0), known], axis=2))
    return np.concatenate(parts, axis=2)
