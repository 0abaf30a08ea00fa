"""How far a new cell type lies from those that the model was trained on, and from the locus average.

A prediction far from training is a guess: what is measured here goes into its summary.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from chromacc_lib.hub import ModelFolder, TrainingReference, track_figures
from chromacc_lib.normalization import normalise_metadata

__all__ = ["FAR_SD", "Quality", "expression_distance"]

SUMS = ("n_windows", "n_with_prior", "n_compared", "n_observed", "weights", "sums", "moments", "density")
DENSITY_BINS, DENSITY_TOP = 40, 5.0  # arcsinh fold; 5 is 74-fold, and what lies above counts in the last bin
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
        self.moments = np.zeros(6)  # of average and score: n, their sums, their squares', their product's
        self.density = np.zeros((DENSITY_BINS, DENSITY_BINS), dtype=np.int64)  # average x score
        self.edges = np.linspace(0, DENSITY_TOP, DENSITY_BINS + 1)

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
        a, s = average[known].astype(np.float64), score[known].astype(np.float64)
        self.moments += [len(a), a.sum(), s.sum(), a @ a, s @ s, a @ s]
        bins = (np.clip(np.searchsorted(self.edges, x, side="right") - 1, 0, DENSITY_BINS - 1) for x in (a, s))
        np.add.at(self.density, tuple(bins), 1)

    def state(self) -> dict[str, np.ndarray]:
        """All that was taken in, as arrays that `merge` adds up."""
        return {f"quality_{name}": np.asarray(getattr(self, name)) for name in SUMS}

    def merge(self, state: Mapping[str, np.ndarray]) -> None:
        """Add what another one took in, in the order of chunks: sums of floats depend on it."""
        for name in SUMS:
            total = getattr(self, name) + state[f"quality_{name}"]
            setattr(self, name, total.item() if np.ndim(total) == 0 else total)

    @property
    def average_correlation(self) -> float | None:
        """Pearson's r of predicted score and locus average; None where it is not defined."""
        n, a, s, aa, ss, product = self.moments
        if n < 3:
            return None
        spread = (aa - a * a / n) * (ss - s * s / n)
        return float((product - a * s / n) / np.sqrt(spread)) if spread > 1e-18 * aa * ss else None

    @property
    def average_density(self) -> dict:
        """Windows by locus average (rows) and predicted score (columns), in bins of equal width, arcsinh fold."""
        return {"edges": self.edges.tolist(), "windows": self.density.tolist()}

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
