"""Baselines for the same loci as the model: what simpler methods reach from the same inputs.

All are fitted on training cell types x training chromosomes; boosting stops early on validation rows, as the model
takes its best checkpoint there. The training-cell-type average itself stands in the predictions table
(`average_score`, `average_label`) and comes from `dataset.locus_average`, leave-one-out for training cell types.
"""

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge

from chromacc_lib import ChromaccError
from chromacc_lib.dataset import Arrays, locus_average

__all__ = ["BASELINES", "average_features", "fit_predict", "nearest_cell_types", "signal_features"]

BASELINES: dict[str, str] = {
    "training_mean": "one number: the mean score of training cell types on training chromosomes",
    "nearest": "the score, at this locus, of the training cell type whose histone marks are most alike",
    "ridge": "ridge regression on the binned histone and TF signals of this cell type",
    "boosting": "gradient boosting on the binned histone and TF signals of this cell type",
    "boosting_with_average": "gradient boosting on these signals plus what the training cell types show at this locus",
}

N_PARTS = 5  # of a window, for the mean signal: 300 bp each at the default 1,500


def fit_predict(arrays: Arrays, seed: int = 1, max_training_rows: int = 60_000) -> pd.DataFrame:
    """Fit every baseline, predict every window of every cell type.

    max_training_rows: rows (window x cell type) drawn without replacement when there are more.
    Returns a table with columns cell_type, window (int) and one column of scores a baseline, in the unit of `score`
    (arcsinh of fold over the genome-wide mean); NaN where a baseline is undefined (`nearest` without shared marks).
    Raises ChromaccError when no training row has a known score.
    """
    train, stop = _rows(arrays, "training"), _rows(arrays, "validation")
    rng = np.random.default_rng(seed)
    if len(train) > max_training_rows:
        print(f"baselines: fitted on {max_training_rows:,} of {len(train):,} training rows, drawn by seed {seed}")
        train = np.sort(rng.choice(train, max_training_rows, replace=False))
    n_windows, n_cells = arrays.score.shape
    target = arrays.score.T.ravel()  # (C*W,): row = cell type * W + window
    signals = np.concatenate([signal_features(arrays, c) for c in range(n_cells)])  # (C*W, k)
    average = np.concatenate(average_features(arrays))  # (C*W, 3 + B)
    filled = _without_gaps(signals)
    both = np.concatenate([signals, average], axis=1)
    table = pd.DataFrame({
        "cell_type": np.repeat(arrays.cell_types["cell_type"].to_numpy(), n_windows),
        "window": np.tile(np.arange(n_windows), n_cells),
        "training_mean": np.float32(target[train].mean(dtype=np.float64)),
        "nearest": _nearest_score(arrays).T.ravel(),
    })
    # Rows outnumber features some hundredfold, so the strength of the penalty hardly matters.
    table["ridge"] = Ridge(alpha=1.0).fit(filled[train], target[train]).predict(filled).astype(np.float32)
    table["boosting"] = _boost(signals, target, train, stop, seed)
    table["boosting_with_average"] = _boost(both, target, train, stop, seed)
    return table


def _rows(arrays: Arrays, use: str) -> np.ndarray:
    """Return the rows (cell type * W + window) for "training" or "validation" that have a known score.

    Without validation cell types, validation rows are training cell types on validation chromosomes.
    """
    cells, windows = arrays.cell_types["split"].to_numpy(), arrays.windows["split"].to_numpy()
    if use == "training":
        mask = np.outer(cells == "train", windows == "train")
    else:
        held_out = "validation" if (cells == "validation").any() else "train"
        mask = np.outer(cells == held_out, windows == "validation")
    rows = np.flatnonzero(mask & np.isfinite(arrays.score.T))
    if not len(rows):
        raise ChromaccError(
            f"baselines: no {use} rows with a known score ({int(mask.sum())} rows in the split, of {mask.size}); "
            "needed: accessibility_signal of these cell types on these chromosomes; check the splits of the dataset"
        )
    return rows


def signal_features(arrays: Arrays, cell: int) -> np.ndarray:
    """Return the binned signals of one cell type as a table: shape=(W, tracks * 7), float32, NaN = missing.

    Of every histone and TF track (normalised): the mean in each of five parts of the window, the highest bin maximum,
    and the standard deviation between bins. Five parts serve boosting better than every bin, and in half the time.
    """
    features = []
    for values, observed in ((arrays.histone, arrays.histone_observed), (arrays.tf, arrays.tf_observed)):
        track = values[:, cell]  # (W, M, B, 3)
        mean, highest = track[..., 0], track[..., 2].max(axis=-1)
        parts = [part.mean(axis=-1) for part in np.array_split(mean, min(N_PARTS, mean.shape[-1]), axis=-1)]
        block = np.stack([*parts, highest, mean.std(axis=-1)], axis=-1).astype(np.float32)  # (W, M, parts + 2)
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


def _without_gaps(features: np.ndarray) -> np.ndarray:
    """Return features with missing values at 0 (the training mean) and one column that counts them: (n, k + 1)."""
    missing = np.isnan(features)
    return np.concatenate([np.where(missing, 0, features), missing.mean(axis=1, keepdims=True)], axis=1)


def _boost(features: np.ndarray, target: np.ndarray, train: np.ndarray, stop: np.ndarray, seed: int) -> np.ndarray:
    """Return gradient boosting's predictions of every row, stopped on the `stop` rows; NaN is a value of its own."""
    model = HistGradientBoostingRegressor(
        max_iter=200, learning_rate=0.1, early_stopping=True, n_iter_no_change=10, random_state=seed
    )
    model.fit(features[train], target[train], X_val=features[stop], y_val=target[stop])
    return model.predict(features).astype(np.float32)


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
