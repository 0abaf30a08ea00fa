"""How far a new cell type lies from those that the model was trained on, and from the locus average.

A prediction far from training is a guess: what is measured here goes into its summary.
"""

from collections.abc import Sequence

import numpy as np

from chromacc_lib.hub import ModelFolder, TrainingReference, track_figures
from chromacc_lib.normalization import normalise_metadata

__all__ = ["FAR_SD", "Quality", "expression_distance"]

FAR_SD = 3  # sd between training cell types, from which a track is called far from training
MIN_SHARE = (
    0.5  # of the reference's windows, for a comparison with training: a few loci differ by their nature
)


class Quality:
    """What went through: windows, which inputs were there, how far they lie from training, and the locus
    average.
    """

    def __init__(self, reference: TrainingReference) -> None:
        self.reference = reference
        self.n_windows = self.n_with_prior = self.n_compared = 0
        self.n_observed = np.zeros(reference.track_mean.shape[1], dtype=np.int64)
        self.weights, self.sums = np.zeros((2, len(self.n_observed))), np.zeros((2, len(self.n_observed)))
        self.pairs: list[np.ndarray] = []

    def add(
        self,
        z: np.ndarray,
        observed: np.ndarray,
        prior_row: np.ndarray,
        average: np.ndarray,
        score: np.ndarray,
    ) -> None:
        """Take in one chunk of W windows. Distance from training is taken over windows of the locus prior.

        z: shape=(W, K, B, 3); observed: bool, shape=(W, K); prior_row: shape=(W,), row in the reference, -1 =
        none; average, score: shape=(W,), locus average (NaN = not known) and prediction, arcsinh fold.
        """
        self.n_windows += len(score)
        self.n_observed += observed.sum(axis=0)
        at = np.flatnonzero(prior_row >= 0)
        self.n_compared += len(at)
        for track in range(observed.shape[1]):
            weight = observed[at, track].sum()
            if weight:
                figures = track_figures(z[at][:, None, track], observed[at][:, None, track])
                self.sums[:, track] += weight * np.array(figures)[:, 0]
                self.weights[:, track] += weight
        known = np.isfinite(average)
        self.n_with_prior += int(known.sum())
        self.pairs.append(np.stack([average[known], score[known]]))

    @property
    def average_correlation(self) -> float | None:
        """Pearson's r of predicted score and locus average; None where it is not defined."""
        average, score = np.concatenate(self.pairs, axis=1).astype(np.float64)
        if len(score) < 3 or average.std() == 0 or score.std() == 0:
            return None
        return float(np.corrcoef(average, score)[0, 1])

    def track_table(self, tracks: Sequence[str]) -> dict[str, dict]:
        """Of each track: share of windows observed; mean z and mean |z|, beside the training cell types'.

        Of those, mean and sd are given. None = not known. far_from_training: a figure more than `FAR_SD` of
        these sd from that mean; known with three training cell types that have the track, and with
        `MIN_SHARE` of the reference's windows predicted.
        """
        enough = self.n_compared >= MIN_SHARE * len(self.reference.windows)
        figures = np.divide(
            self.sums, self.weights, out=np.full_like(self.sums, np.nan), where=self.weights > 0
        )
        table = {}
        for i, name in enumerate(tracks):
            row: dict = {"observed_share": float(self.n_observed[i] / max(self.n_windows, 1))}
            far = []
            for what, here, training in (
                ("mean_z", figures[0, i], self.reference.track_mean[:, i]),
                ("mean_abs_z", figures[1, i], self.reference.track_spread[:, i]),
            ):
                known = training[np.isfinite(training)]
                mean, sd = (float(known.mean()), float(known.std(ddof=1))) if len(known) > 2 else (None, None)
                row |= {
                    what: float(here) if np.isfinite(here) else None,
                    f"training_{what}": mean,
                    f"training_{what}_sd": sd,
                }
                far.append(None if row[what] is None or mean is None else abs(row[what] - mean) > FAR_SD * sd)
            table[name] = row | {"far_from_training": any(far) if enough and None not in far else None}
        return table


def expression_distance(folder: ModelFolder, expression: np.ndarray) -> dict | None:
    """Root mean square z difference to the nearest training cell type, beside theirs to their nearest;
    None = unknown.
    """
    z, known = normalise_metadata(expression[None], folder.normalization, folder.model.config.features)
    training = folder.reference.metadata
    described = np.isfinite(training).any(axis=1)
    if not (known[0] and described.any()):
        return None
    z = np.where(np.isfinite(expression), z[0], np.nan)
    names = np.array(folder.reference.cell_types)[described]
    training = training[described].astype(np.float64)
    away, between = _rms(training - z), _rms(training[:, None] - training)
    if not np.isfinite(away).any():
        return None
    np.fill_diagonal(between, np.inf)
    nearest = between.min(axis=1)
    nearest = nearest[np.isfinite(nearest)]
    return {
        "nearest_training_cell_type": str(names[away.argmin()]),
        "distance": float(away.min()),
        "training_median_to_nearest": float(np.median(nearest)) if len(nearest) else None,
    }


def _rms(difference: np.ndarray) -> np.ndarray:
    """Root mean square over the last axis of what is not NaN; infinite where nothing is known."""
    known = np.isfinite(difference)
    count = known.sum(axis=-1)
    total = (np.where(known, difference, 0) ** 2).sum(axis=-1)
    return np.sqrt(np.divide(total, count, out=np.full(count.shape, np.inf), where=count > 0))
