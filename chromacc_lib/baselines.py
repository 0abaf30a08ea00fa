"""Baselines for the same loci as the model: what simpler methods reach from the same inputs.

All are fitted on training cell types x training chromosomes; boosting stops early on validation rows, as the model
takes its best checkpoint there. The training-cell-type average itself stands in the predictions table
(`average_score`, `average_label`) and comes from `dataset.locus_average`, leave-one-out for training cell types.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from chromacc_lib import ChromaccError, project_path
from chromacc_lib.dataset import Arrays, expected_departure, locus_average, write_table
from chromacc_lib.regions import code_hashes

__all__ = [
    "BASELINES", "average_features", "cached", "departure_features", "fit_predict", "kmer_frequencies",
    "nearest_cell_types", "signal_features",
]

BASELINES: dict[str, str] = {
    "training_mean": "one number: the mean score of training cell types on training chromosomes",
    "gc_content": "the score of windows of this GC content, a cubic curve; the same in all cell types",
    "kmer": "logistic regression of open or closed on the window's 6-mers, the same in all cell types; its log odds "
            "become scores by a straight line, fitted on training cell types x validation chromosomes",
    "nearest": "the score, at this locus, of the training cell type whose histone marks are most alike",
    "like_cell_types": "the locus average, moved to where the training cell types of like expression stand at this "
                       "locus (Gaussian-process regression over cell types)",
    "ridge": "ridge regression on the binned histone and TF signals of this cell type",
    "boosting": "gradient boosting on the binned histone and TF signals of this cell type; a second one, of open or "
                "closed, ranks windows where that is better on validation rows",
    "boosting_with_average": "gradient boosting, and a second one of open or closed, on these signals plus what the "
                             "training cell types show at this locus",
    "boosting_with_like_cell_types": "gradient boosting, and a second one of open or closed, on signals, average and "
                                     "how the training cell types of like expression depart from it: what the model "
                                     "reads, but for the sequence and the expression itself",
}

LIKE = "boosting_with_like_cell_types"
N_PARTS = 5         # of a window, for the mean signal: 300 bp each at the default 1,500
BOOSTING = {"max_iter": 200, "learning_rate": 0.1, "early_stopping": True, "n_iter_no_change": 10}
K = 6               # bp of a k-mer: 2,080 of them, both strands merged
KMER_CHUNK = 256    # windows whose k-mers are counted at once: some MB
ROWS_A_WINDOW = 4   # a window's k-mers take the memory of so many rows: max_training_rows / 4 windows at most


def cached(
    arrays: Arrays, path: str | Path, dataset_dir: str | Path, seed: int = 1, max_training_rows: int = 60_000,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """Return the table of `fit_predict`: from `path` where that was made from the very same input, else fitted now and
    written there, whole or not at all.

    The same are: the dataset (`fingerprint` in its curation.json: every input file, parameter and line of code), its
    splits as they are in `arrays`, seed, max_training_rows, this code, and scikit-learn's version. The key of all of it
    stands in the file's metadata. dataset_dir: that arrays were loaded from. say: gets one line that tells which
    happened. Raises ChromaccError where the dataset has no curation.json, and what `fit_predict` raises.
    """
    path, key = project_path(path), _key(arrays, dataset_dir, seed, max_training_rows)
    if path.is_file():
        table = pd.read_parquet(path)
        if table.attrs.get("made_from") == key:
            say(f"baselines: taken from {path.name}, made from the same dataset, seed and code; nothing is fitted")
            return table
        why = f"{path.name} was made from another dataset, seed or code"
    else:
        why = f"there is no {path.name} yet"
    say(f"baselines: fitted now, since {why}")
    table = fit_predict(arrays, seed, max_training_rows)
    table.attrs["made_from"] = key
    write_table(table, path)
    return table


def _key(arrays: Arrays, dataset_dir: str | Path, seed: int, max_training_rows: int) -> str:
    """Return a hash of everything that the baselines depend on; see `cached`."""
    file = project_path(dataset_dir) / "curation.json"
    if not file.is_file():
        raise ChromaccError(f"{file}: not there; the baselines are kept for the dataset that it describes: curate it "
                            "(notebook 01_data_curation), or correct dataset_dir")
    sha = hashlib.sha256(json.dumps([
        json.loads(file.read_text())["fingerprint"], arrays.score.shape, seed, max_training_rows, code_hashes(),
        hashlib.sha256(Path(__file__).read_bytes()).hexdigest(), sklearn.__version__,
    ]).encode())
    for table in (arrays.windows, arrays.cell_types):
        sha.update(pd.util.hash_pandas_object(table).to_numpy().tobytes())
    return sha.hexdigest()


def fit_predict(arrays: Arrays, seed: int = 1, max_training_rows: int = 60_000) -> pd.DataFrame:
    """Fit every baseline, predict every window of every cell type.

    max_training_rows: rows (window x cell type) drawn without replacement when there are more; for `kmer`, a quarter as
    many windows. Returns a table with columns cell_type, window (int) and one column of scores a baseline, in the unit
    of `score` (arcsinh of fold over the genome-wide mean), and NAME_probability of each boosting, of being open, from
    the same features fitted on labels. NaN where a baseline is undefined: `nearest` without shared marks, `kmer` and
    probabilities without windows labelled open and closed, like cell types without metadata. Raises ChromaccError when
    no row has a known score in the splits that are fitted on.
    """
    rng, n_windows = np.random.default_rng(seed), len(arrays.score)
    train = _draw(_rows(arrays, "train", "train"), max_training_rows, rng, "training", seed)
    held_out = "validation" if (arrays.cell_types["split"] == "validation").any() else "train"
    stop = _draw(_rows(arrays, held_out, "validation"), max_training_rows, rng, "validation", seed)
    mean = arrays.score.T.ravel()[train].mean(dtype=np.float64)
    every_cell = {
        "gc_content": _gc_score(arrays, train), "kmer": _kmer_score(arrays, max_training_rows // ROWS_A_WINDOW, seed),
    }
    departure = departure_features(arrays)
    columns = {
        "training_mean": np.full(arrays.score.size, mean, np.float32),
        **{name: np.tile(score, arrays.score.shape[1]) for name, score in every_cell.items()},
        "nearest": _nearest_score(arrays).T.ravel(),
        "like_cell_types": (locus_average(arrays.score, arrays.train_mask).T + departure[..., 0]).ravel(),
        **_from_signals(arrays, departure, train, stop, seed),
    }
    return pd.DataFrame({
        "cell_type": np.repeat(arrays.cell_types["cell_type"].to_numpy(), n_windows),
        "window": np.tile(np.arange(n_windows), arrays.score.shape[1]), **columns,
    })


def _rows(arrays: Arrays, cell_split: str, window_split: str) -> np.ndarray:
    """Return the rows (cell type * W + window) of these splits that have a known score."""
    cells, windows = arrays.cell_types["split"].to_numpy(), arrays.windows["split"].to_numpy()
    mask = np.outer(cells == cell_split, windows == window_split)
    rows = np.flatnonzero(mask & np.isfinite(arrays.score.T))
    if not len(rows):
        use = {"train": "training"}.get(window_split, window_split)
        raise ChromaccError(
            f"baselines: no {use} rows with a known score ({int(mask.sum())} rows in the split, of {mask.size}); "
            "needed: accessibility_signal of these cell types on these chromosomes; check the splits of the dataset"
        )
    return rows


def _draw(rows: np.ndarray, most: int, rng: np.random.Generator, use: str, seed: int) -> np.ndarray:
    """Return the rows, or `most` of them where there are more, sorted; says so."""
    if len(rows) <= most:
        return rows
    print(f"baselines: fitted on {most:,} of {len(rows):,} {use} rows, drawn by seed {seed}")
    return np.sort(rng.choice(rows, most, replace=False))


# --- from the sequence alone: the same score in every cell type ----------------------------------------------


def _gc_score(arrays: Arrays, train: np.ndarray) -> np.ndarray:
    """Return the score expected from GC: shape=(W,), float32; a window of unknown bases counts as one of mean GC."""
    gc = arrays.windows["gc"].to_numpy(np.float64)
    seen = gc[train % len(gc)]
    known = np.isfinite(seen)
    middle = seen[known].mean() if known.any() else 0.0
    curve = make_pipeline(StandardScaler(), PolynomialFeatures(3, include_bias=False), Ridge(alpha=1.0))
    curve.fit(np.where(known, seen, middle)[:, None], arrays.score.T.ravel()[train])
    # Beyond the GC that was fitted on, the curve stays where it ended.
    inside = np.clip(np.where(np.isfinite(gc), gc, middle), *(np.nanquantile(seen, [0, 1]) if known.any() else (0, 0)))
    return curve.predict(inside[:, None]).astype(np.float32)


def kmer_frequencies(sequence: np.ndarray) -> np.ndarray:
    """Return how often each 6-mer occurs in each window, both strands merged: shape=(W, 2080), float32.

    sequence: uint8, shape=(W, L), 0..3 = ACGT, 4 = N. Columns: k-mers in alphabetical order, each standing for its
    reverse complement as well. 6-mers with an N are left out; rows sum to 1, and are NaN where no 6-mer is known.
    """
    column = np.append(_canonical(), 0)
    n, length = column.max() + 1, max(sequence.shape[1] - K + 1, 0)
    frequencies = np.empty((len(sequence), n), np.float32)
    for first in range(0, len(sequence), KMER_CHUNK):
        codes = sequence[first:first + KMER_CHUNK].astype(np.int16)
        kmer, known = np.zeros((len(codes), length), np.int16), np.ones((len(codes), length), bool)
        for i in range(K):
            base = codes[:, i:i + length]
            kmer = 4 * kmer + np.minimum(base, 3)
            known &= base < 4
        cell = column[kmer] + n * np.arange(len(codes))[:, None]
        count = np.bincount(cell[known], minlength=len(codes) * n).reshape(len(codes), n)
        total = count.sum(axis=1, keepdims=True)
        empty = np.full(count.shape, np.nan)
        frequencies[first:first + KMER_CHUNK] = np.divide(count, total, out=empty, where=total > 0)
    return frequencies


def _canonical() -> np.ndarray:
    """Return the column of each of 4^K k-mers (base 4, first base first), one for it and its reverse complement."""
    kmer = np.arange(4 ** K)
    reverse, rest = np.zeros_like(kmer), kmer.copy()
    for _ in range(K):
        reverse, rest = 4 * reverse + 3 - rest % 4, rest // 4
    return np.unique(np.minimum(kmer, reverse), return_inverse=True)[1]


def _kmer_score(arrays: Arrays, most_windows: int, seed: int) -> np.ndarray:
    """Return the score that k-mers tell: shape=(W,), float32; NaN everywhere without windows open and windows closed.

    Each training window is a row for open and a row for closed, weighted by the share of training cell types that have
    it so. The penalty is a Gaussian prior under which the log odds of a typical window have a standard deviation of 1:
    a variance of 1 / 2080 for each standardised k-mer. Log odds become scores by a straight line, fitted on training
    cell types x validation chromosomes, since on the windows that they were fitted on they are over-confident.
    """
    label = arrays.label[:, arrays.train_mask]
    n_open, n_known = (label == 1).sum(axis=1), (label >= 0).sum(axis=1)
    windows = np.flatnonzero((arrays.windows["split"] == "train").to_numpy() & (n_known > 0))
    windows = _draw(windows, most_windows, np.random.default_rng(seed), "training windows (kmer)", seed)
    features = kmer_frequencies(arrays.sequence[windows])
    known = np.isfinite(features[:, 0])
    windows, features = windows[known], features[known]
    if not 0 < n_open[windows].sum() < n_known[windows].sum():
        print(f"baselines: kmer is undefined: of its {len(windows):,} training windows, none is open or none is closed")
        return np.full(len(label), np.nan, np.float32)
    mean, sd = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    sd[sd == 0] = 1

    def scaled(frequencies: np.ndarray) -> np.ndarray:
        """Return standardised k-mers; unknown ones are at the mean."""
        return np.nan_to_num((frequencies - mean) / sd, copy=False).astype(np.float32)

    features, share = scaled(features), n_open[windows] / n_known[windows]
    both = np.concatenate([features[share > 0], features[share < 1]])
    weight = np.concatenate([share[share > 0], 1 - share[share < 1]])
    is_open = np.arange(len(both)) < (share > 0).sum()
    model = LogisticRegression(C=1 / both.shape[1], max_iter=300).fit(both, is_open, sample_weight=weight)
    odds = np.concatenate([model.decision_function(scaled(kmer_frequencies(arrays.sequence[i:i + KMER_CHUNK])))
                           for i in range(0, len(label), KMER_CHUNK)]).astype(np.float64)
    rows = _rows(arrays, "train", "validation")
    x, y = odds[rows % len(odds)], arrays.score.T.ravel()[rows].astype(np.float64)
    spread = x - x.mean()
    slope = spread @ y / (spread @ spread) if spread @ spread > 0 else 0.0
    return (y.mean() + slope * (odds - x.mean())).astype(np.float32)


# --- from the signals of the cell type -----------------------------------------------------------------------


def _from_signals(arrays: Arrays, departure: np.ndarray, train: np.ndarray, stop: np.ndarray, seed: int
                  ) -> dict[str, np.ndarray]:  # fmt: skip
    """Return {name: scores of every row, shape=(C*W,), float32} of ridge and boosting, and boosting's probabilities.

    departure: of `departure_features`. NaN for boosting with like cell types where no metadata tell which those are.
    Features are held of the rows that are fitted on, then of one cell type at a time.
    """
    n_windows, n_cells = arrays.score.shape
    average = average_features(arrays)  # (C, W, 3 + B)
    target, label = arrays.score.T.ravel(), arrays.label.T.ravel()  # (C*W,)

    def features(cell: int, windows: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Return signals, the average, and departures from it, of these windows in one cell type."""
        parts = signal_features(arrays, cell)[windows], average[cell, windows], departure[cell, windows]
        return np.concatenate(parts, axis=1)

    used = np.union1d(train, stop)  # sorted: cell type by cell type
    cells, windows = used // n_windows, used % n_windows
    table = np.concatenate([features(c, windows[cells == c]) for c in np.unique(cells)])
    n_average = table.shape[1] - departure.shape[2]
    n_signals = n_average - average.shape[2]
    train, stop = np.searchsorted(used, train), np.searchsorted(used, stop)
    target, label = target[used], label[used]
    signals = table[:, :n_signals]
    # Rows outnumber features some hundredfold, so the strength of the penalty hardly matters.
    mean = _column_means(signals[train])
    ridge = Ridge(alpha=1.0).fit(_without_gaps(signals[train], mean), target[train])
    boosted = {"boosting": signals, "boosting_with_average": table[:, :n_average]}
    names = ["ridge", *(name + of for of in ("", "_probability") for name in (*boosted, LIKE))]
    if arrays.state_weights.any():
        boosted[LIKE] = table
    models = {name: _boost(fitted, target, train, stop, seed) for name, fitted in boosted.items()}
    classifiers = {name: _boost_labels(fitted, label, train, stop, seed) for name, fitted in boosted.items()}
    scores = {name: np.full(n_cells * n_windows, np.nan, np.float32) for name in names}
    for c in range(n_cells):
        rows, here = slice(c * n_windows, (c + 1) * n_windows), features(c)
        scores["ridge"][rows] = ridge.predict(_without_gaps(here[:, :n_signals], mean))
        for name, fitted in boosted.items():
            seen = here[:, :fitted.shape[1]]
            scores[name][rows] = models[name].predict(seen)
            if classifiers[name] is not None:
                scores[f"{name}_probability"][rows] = classifiers[name].predict_proba(seen)[:, 1]
    return scores


def signal_features(arrays: Arrays, cell: int) -> np.ndarray:
    """Return the binned signals of one cell type as a table: shape=(W, tracks * 7), float32, NaN = missing.

    Of every histone and TF track (normalised): the mean in each of five parts of the window, the highest bin maximum,
    and the standard deviation between bins. Five parts serve boosting better than every bin, and in half the time.
    """
    features = []
    for values, observed in ((arrays.histone, arrays.histone_observed), (arrays.tf, arrays.tf_observed)):
        track = np.ascontiguousarray(values[:, cell].transpose(3, 2, 0, 1))  # (W, M, B, 3) -> (3, B, W, M), read once
        mean, highest = track[0], track[2].max(axis=0)
        parts = [part.mean(axis=0) for part in np.array_split(mean, min(N_PARTS, len(mean)))]
        block = np.stack([*parts, highest, mean.std(axis=0)], axis=-1).astype(np.float32)  # (W, M, parts + 2)
        block[~observed[:, cell]] = np.nan
        features.append(block.reshape(len(block), -1))
    return np.concatenate(features, axis=1)


def average_features(arrays: Arrays) -> np.ndarray:
    """Return what the training cell types show at each locus: shape=(C, W, 3 + B), float32.

    Mean score, its standard deviation, share of open cell types, mean profile by bin; leave-one-out for training
    cell types, so that no row holds its own score.
    """
    train = (arrays.cell_types["split"] == "train").to_numpy()
    score = arrays.score.astype(np.float64)
    label = np.where(arrays.label < 0, np.nan, arrays.label).astype(np.float64)
    mean = locus_average(score, train)
    spread = np.sqrt(np.maximum(locus_average(score ** 2, train) - mean ** 2, 0))
    profile = locus_average(arrays.accessibility, train)
    stacked = np.concatenate([np.stack([mean, spread, locus_average(label, train)], axis=-1), profile], axis=-1)
    return stacked.astype(np.float32).transpose(1, 0, 2)  # (W, C, 3 + B) -> (C, W, 3 + B)


def departure_features(arrays: Arrays) -> np.ndarray:
    """Return how training cell types of like metadata depart from the average at each locus: shape=(C, W, 1 + B).

    Of the score, then of the profile by bin; float32, NaN for a cell type whose metadata tell nothing.
    """
    weights = arrays.state_weights
    parts = [expected_departure(values, weights, locus_average(values, arrays.train_mask))
             for values in (arrays.score, arrays.accessibility)]  # fmt: skip
    stacked = np.concatenate([parts[0][..., None], parts[1]], axis=-1)
    stacked[:, ~weights.any(axis=1)] = np.nan
    return stacked.transpose(1, 0, 2)  # (W, C, 1 + B) -> (C, W, 1 + B)


def _column_means(features: np.ndarray) -> np.ndarray:
    """Return the mean of what is known of each column, float64, shape=(k,); 0 where nothing is."""
    known = np.isfinite(features)
    return np.where(known, features, 0).sum(axis=0, dtype=np.float64) / np.maximum(known.sum(axis=0), 1)


def _without_gaps(features: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Return features with missing values at the training mean and one column that counts them: (n, k + 1)."""
    missing = np.isnan(features)
    return np.concatenate([np.where(missing, mean, features), missing.mean(axis=1, keepdims=True)], axis=1)


def _boost(features: np.ndarray, target: np.ndarray, train: np.ndarray, stop: np.ndarray, seed: int
           ) -> HistGradientBoostingRegressor:
    """Return gradient boosting fitted on the `train` rows and stopped on the `stop` rows; NaN is a value of its own."""
    model = HistGradientBoostingRegressor(**BOOSTING, random_state=seed)
    return model.fit(_known_somewhere(features[train]), target[train], X_val=features[stop], y_val=target[stop])


def _boost_labels(features: np.ndarray, label: np.ndarray, train: np.ndarray, stop: np.ndarray, seed: int
                  ) -> HistGradientBoostingClassifier | None:  # fmt: skip
    """Return gradient boosting of open or closed, as `_boost`, on rows whose label is known; None unless both occur."""
    train, stop = (rows[label[rows] >= 0] for rows in (train, stop))
    if any(len(np.unique(label[rows])) < 2 for rows in (train, stop)):
        print("baselines: boosting has no classifier: its rows with a label are not of both classes; its score ranks")
        return None
    model = HistGradientBoostingClassifier(**BOOSTING, random_state=seed)
    return model.fit(_known_somewhere(features[train]), label[train], X_val=features[stop], y_val=label[stop])


def _known_somewhere(features: np.ndarray) -> np.ndarray:
    """Return features, those never known here as constant, so that no tree asks for them; changed in place."""
    features[:, np.isnan(features).all(axis=0)] = 0
    return features


def nearest_cell_types(arrays: Arrays) -> np.ndarray:
    """Return for each cell type the index of the training cell type most like it, itself left out: shape=(C,), int.

    Likeness: correlation of window means on training chromosomes, averaged over the histone marks that both have
    observed. -1 = no training cell type shares a mark with it.
    """
    windows = (arrays.windows["split"] == "train").to_numpy()
    train = (arrays.cell_types["split"] == "train").to_numpy()
    values = arrays.histone[windows][..., 0].mean(axis=-1, dtype=np.float64)            # (W, C, M)
    values = np.where(arrays.histone_observed[windows], values, np.nan)
    likeness = [pd.DataFrame(values[:, :, m]).corr(min_periods=3).to_numpy() for m in range(values.shape[2])]
    n_cells = len(train)
    stacked = np.stack(likeness) if likeness else np.full((1, n_cells, n_cells), np.nan)
    count = np.isfinite(stacked).sum(axis=0)
    mean = np.where(count > 0, np.nansum(stacked, axis=0) / np.maximum(count, 1), -np.inf)
    mean[:, ~train] = -np.inf
    np.fill_diagonal(mean, -np.inf)
    return np.where(np.isfinite(mean.max(axis=1)), mean.argmax(axis=1), -1)


def _nearest_score(arrays: Arrays) -> np.ndarray:
    """Return the score of the nearest training cell type at each locus: shape=(W, C), float32, NaN = undefined."""
    nearest = nearest_cell_types(arrays)
    return np.where(nearest >= 0, arrays.score[:, nearest], np.nan).astype(np.float32)
