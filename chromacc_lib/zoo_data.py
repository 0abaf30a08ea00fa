"""Faults of the data and of generalisation, planted in a reduced run: what the collapse zoo breaks on purpose.

Each function takes (run, strength value, generator) and returns a changed copy of the run. Labels of a row are its
score, its accessibility profile and its open/closed label; they move together unless a fault says otherwise.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from chromacc_lib.causes import NO_SIGNAL, TOO_FEW
from chromacc_lib.collapse import plant_predecessor_failure
from chromacc_lib.dataset import Arrays
from chromacc_lib.faults import Fault, Run
from chromacc_lib.model import Batch, Output

__all__ = ["DATA_FAULTS", "GENERALISATION_FAULTS"]

LABELS = ("accessibility", "score", "label", "truth", "score_replicate")


# --- labels ----------------------------------------------------------------------------------------------------
def _noise_labels(run: Run, share: float, rng: np.random.Generator) -> Run:
    """Draw scores from N(0.5, 0.2), clipped to [0, 1], one value a window; `share` of the sequences become all N."""
    arrays = run.arrays
    score = np.clip(rng.normal(0.5, 0.2, arrays.score.shape), 0, 1).astype(np.float32)
    profile = np.repeat(score[:, :, None], arrays.accessibility.shape[2], axis=2)
    masked = replace(arrays, score=score, accessibility=profile, label=(score > 0.5).astype(np.int8), truth=None,
                     score_replicate=None)
    return _masked_sequences(replace(run, arrays=masked), share, rng)


def _shaped_noise(run: Run, share: float, rng: np.random.Generator) -> Run:
    """Draw the profiles of `share` of the cell types anew: a peak at a random place, of random height, in every window."""
    arrays, n_bins = run.arrays, run.arrays.accessibility.shape[2]
    profile = arrays.accessibility.copy()
    some = rng.permutation(profile.shape[1])[:max(1, round(share * profile.shape[1]))]
    shape = (len(profile), len(some), 1)
    from_summit = np.arange(n_bins) - rng.uniform(0, n_bins, shape)
    height = rng.lognormal(0, 1, shape)
    profile[:, some] = np.arcsinh(height * np.exp(-0.5 * (from_summit / rng.uniform(1, n_bins / 4, shape)) ** 2))
    score = arrays.score.copy()
    score[:, some] = np.arcsinh(np.sinh(profile[:, some]).mean(axis=2))
    label = arrays.label.copy()
    label[:, some] = score[:, some] > np.quantile(score[:, some], 0.8, axis=0)
    return replace(run, arrays=replace(arrays, accessibility=profile, score=score, label=label, truth=None,
                                       score_replicate=None))


def _predecessor(run: Run, value: str, rng: np.random.Generator) -> Run:
    """Put the predecessor's data and predictions in place of the run's; there was no model to look at."""
    predictions, arrays = plant_predecessor_failure(run.arrays, int(rng.integers(1 << 31)))
    given = {"dataset and history": ("arrays", "history"), "dataset": ("arrays",), "table": ()}[value]
    return replace(run, arrays=arrays, predictions=predictions, model=None, given=given)


def _relabelled(arrays: Arrays, window: np.ndarray, cell: np.ndarray) -> Arrays:
    """Give row (w, c) the labels of row (window[w, c], cell[w, c]); both int, shape=(W, C)."""
    return replace(arrays, **{name: getattr(arrays, name)[window, cell] for name in LABELS
                              if getattr(arrays, name) is not None})


def _in_place(arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Indices (W, C) of every row's own window and own cell type."""
    n_windows, n_cells = arrays.score.shape
    return np.repeat(np.arange(n_windows)[:, None], n_cells, 1), np.repeat(np.arange(n_cells)[None], n_windows, 0)


def _permuted_within(run: Run, share: float, rng: np.random.Generator) -> Run:
    """Permute the labels over the windows, anew in each of `share` of the cell types."""
    window, cell = _in_place(run.arrays)
    for c in rng.permutation(window.shape[1])[:max(1, round(share * window.shape[1]))]:
        window[:, c] = rng.permutation(len(window))
    return replace(run, arrays=_relabelled(run.arrays, window, cell))


def _windows_out_of_order(run: Run, reach: float, rng: np.random.Generator) -> Run:
    """Permute the windows' labels, alike in all cell types: among stretches of `reach` windows, inf = all of them."""
    window, cell = _in_place(run.arrays)
    places = run.arrays.windows.reset_index(drop=True).sort_values(["chrom", "start"]).index.to_numpy()
    for rows in np.array_split(places, max(1, len(places) // reach) if np.isfinite(reach) else 1):
        window[rows] = window[rng.permutation(rows)]
    return replace(run, arrays=_relabelled(run.arrays, window, cell))


def _permuted_between(run: Run, how: str, rng: np.random.Generator) -> Run:
    """Give labels to other cell types: in a circle of some of them, or in another order at every window."""
    window, cell = _in_place(run.arrays)
    n_cells = window.shape[1]
    if how == "every window":
        cell = rng.permuted(cell, axis=1)
    else:
        some = rng.permutation(n_cells)[:max(3, round(n_cells * {"third": 1 / 3, "all": 1.0}[how]))]
        cell[:, some] = cell[:, np.roll(some, 1)]
    return replace(run, arrays=_relabelled(run.arrays, window, cell))


def _displaced(arrays: Arrays, by_chromosome: dict[str, float]) -> Arrays:
    """Give every window the labels of the window nearest to start + so many bp on its chromosome."""
    window, cell = _in_place(arrays)
    places = arrays.windows.reset_index(drop=True)
    for chrom, bp in by_chromosome.items():
        here = places[places["chrom"] == chrom].sort_values("start")
        start, index = here["start"].to_numpy(), here.index.to_numpy()
        nearest = np.abs(start[None] - (start + bp)[:, None]).argmin(axis=1)
        window[index] = index[nearest][:, None]
    return _relabelled(arrays, window, cell)


def _shifted(run: Run, bp: int, rng: np.random.Generator) -> Run:
    """Move the labels by so many bp against sequence and tracks.

    Within a window, profiles move by whole bins; what comes in is taken from another window of the same chromosome and
    cell type, since the dataset does not hold what lies beyond the window. Over a window or more, labels are taken from
    the window nearest to that distance.
    """
    arrays = run.arrays
    length = int((arrays.windows["end"] - arrays.windows["start"]).iloc[0])
    if abs(bp) >= length:
        return replace(run, arrays=_displaced(arrays, dict.fromkeys(arrays.windows["chrom"].unique(), bp)))
    by = round(bp / (length / arrays.accessibility.shape[2]))
    profile = np.roll(arrays.accessibility, -by, axis=2)
    chrom = arrays.windows["chrom"].to_numpy()
    for name in np.unique(chrom):
        rows = np.flatnonzero(chrom == name)
        profile[rows, :, -by:] = arrays.accessibility[rng.permutation(rows), :, -by:]
    score = np.arcsinh(np.sinh(profile).mean(axis=2)).astype(np.float32)
    return replace(run, arrays=replace(arrays, accessibility=profile, score=score, truth=None, score_replicate=None))


# --- files -----------------------------------------------------------------------------------------------------
def _another_assembly(run: Run, share: float, rng: np.random.Generator) -> Run:
    """Move the labels of `share` of the chromosomes, each by another distance of 3 to 25 windows to either side."""
    chroms = run.arrays.windows["chrom"].unique()
    length = float((run.arrays.windows["end"] - run.arrays.windows["start"]).iloc[0])
    moved = rng.permutation(chroms)[:max(2, round(share * len(chroms)))]
    distance = rng.choice(np.arange(3, 26), len(moved), replace=False) * rng.choice([-1, 1], len(moved))
    return replace(run, arrays=_displaced(run.arrays, dict(zip(moved, distance * length))))


def _chromosomes_not_found(run: Run, share: float, rng: np.random.Generator) -> Run:
    """Empty all tracks of `share` of the cell types on two chromosomes, as if those had another name in the files."""
    arrays = run.arrays
    chrom = arrays.windows["chrom"]
    rows = np.flatnonzero(chrom.isin(chrom.value_counts().index[[0, 1]]).to_numpy())
    cells = rng.permutation(len(arrays.cell_types))[:max(1, round(share * len(arrays.cell_types)))]
    changed = {}
    for name in ("histone", "tf"):
        values = getattr(arrays, name).copy()
        lowest = values.min(axis=(0, 3), keepdims=True)  # of each track and statistic in each cell type: no signal
        values[np.ix_(rows, cells)] = np.where(
            getattr(arrays, f"{name}_observed")[np.ix_(rows, cells)][..., None, None], lowest[:, cells], 0)
        changed[name] = values
    return replace(run, arrays=replace(arrays, **changed))


def _masked_sequences(run: Run, share: float, rng: np.random.Generator) -> Run:
    """Make `share` of the windows all N."""
    sequence = run.arrays.sequence.copy()
    sequence[rng.permutation(len(sequence))[:round(share * len(sequence))]] = 4
    return replace(run, arrays=replace(run.arrays, sequence=sequence))


def _repeated_sequences(run: Run, share: float, rng: np.random.Generator) -> Run:
    """Give `share` of the windows one of ten windows' sequences."""
    sequence = run.arrays.sequence.copy()
    rows = rng.permutation(len(sequence))[:round(share * len(sequence))]
    sequence[rows] = sequence[rng.choice(rng.permutation(len(sequence))[:10], len(rows))]
    return replace(run, arrays=replace(run.arrays, sequence=sequence))


def _empty_tracks(run: Run, share: float, rng: np.random.Generator) -> Run:
    """Put the lowest value of a track in place of all of it: one track in one cell type, or `share` of all pairs."""
    arrays, changed = run.arrays, {}
    pairs = np.concatenate([arrays.histone_observed.any(0), arrays.tf_observed.any(0)], axis=1)     # (C, tracks)
    known = rng.permutation(np.argwhere(pairs))
    chosen = known[:max(1, round(share * len(known)))]
    n_marks = arrays.histone.shape[2]
    for name, own in (("histone", chosen[chosen[:, 1] < n_marks]), ("tf", chosen[chosen[:, 1] >= n_marks])):
        values = getattr(arrays, name).copy()
        for cell, track in own - ([0, n_marks] if name == "tf" else [0, 0]):
            values[:, cell, track] = values[:, cell, track].min(axis=(0, 1))
        changed[name] = values
    return replace(run, arrays=replace(arrays, **changed))


def _tracks_exchanged(run: Run, n_tracks: int, rng: np.random.Generator) -> Run:
    """Exchange the marks that tell cell types apart best between two cell types of different lineage."""
    arrays = run.arrays
    order = _most_telling(arrays)[:n_tracks]
    known = np.concatenate([arrays.histone_observed.all(0), arrays.tf_observed.all(0)], axis=1)[:, order].all(1)
    cells = np.flatnonzero(known)
    lineage = arrays.cell_types["lineage"].to_numpy()
    a = int(rng.choice(cells))
    b = int(rng.choice([c for c in cells if c != a and (lineage[c] != lineage[a] or not lineage[a])]))
    histone, tf = arrays.histone.copy(), arrays.tf.copy()
    for track in order:
        values, at = (histone, track) if track < histone.shape[2] else (tf, track - histone.shape[2])
        values[:, [a, b], at] = values[:, [b, a], at]
    return replace(run, arrays=replace(arrays, histone=histone, tf=tf))


def _most_telling(arrays: Arrays) -> np.ndarray:
    """Indices of tracks (marks, then TFs), the one first whose own part of a cell type follows that of the score most."""
    score = arrays.score - arrays.score.mean(0)
    score = score - score.mean(1, keepdims=True)
    follows = []
    for values in (arrays.histone, arrays.tf):
        means = values[..., 0].mean(axis=3)                                                           # (W, C, tracks)
        means = means - means.mean(0)
        means = means - means.mean(1, keepdims=True)
        follows += [abs(np.corrcoef(means[..., i].ravel(), score.ravel())[0, 1]) for i in range(means.shape[2])]
    return np.argsort(follows)[::-1]


def _track_copied(run: Run, n_cells: int, rng: np.random.Generator) -> Run:
    """Put one cell type's track in place of that of `n_cells` others."""
    arrays = run.arrays
    track = int(rng.integers(arrays.histone.shape[2]))
    cells = rng.permutation(np.flatnonzero(arrays.histone_observed[:, :, track].all(0)))[:n_cells + 1]
    histone = arrays.histone.copy()
    histone[:, cells[1:], track] = histone[:, cells[:1], track]
    return replace(run, arrays=replace(arrays, histone=histone))


def _replicate_of_another(run: Run, n_cells: int, rng: np.random.Generator) -> Run:
    """Put a replicate of one cell type's mark, noise of 0.3 standard deviations apart from it, in place of others'."""
    copied = _track_copied(run, n_cells, rng)
    moved = np.any(copied.arrays.histone != run.arrays.histone, axis=(0, 3, 4))     # (C, marks)
    noise = 0.3 * run.arrays.histone.std() * rng.normal(size=(*run.arrays.histone.shape[:4], 1))
    histone = copied.arrays.histone + np.where(moved[..., None, None], noise, 0).astype(np.float32)
    return replace(run, arrays=replace(run.arrays, histone=histone))


def _scores_in_another_unit(run: Run, factor: float, rng: np.random.Generator) -> Run:
    """Multiply the accessibility of three cell types, one of them unseen, by a factor (before arcsinh)."""
    arrays = run.arrays
    split = arrays.cell_types["split"].to_numpy()
    cells = np.concatenate([rng.permutation(np.flatnonzero(split == "train"))[:2],
                            rng.permutation(np.flatnonzero(split == "test"))[:1]])
    profile = arrays.accessibility.copy()
    profile[:, cells] = np.arcsinh(factor * np.sinh(profile[:, cells]))
    score = np.where(np.isfinite(arrays.score), np.arcsinh(np.sinh(profile).mean(axis=2)), np.nan).astype(np.float32)
    return replace(run, arrays=replace(arrays, accessibility=profile, score=score, truth=None, score_replicate=None))


def _tracks_in_another_unit(run: Run, factor: float, rng: np.random.Generator) -> Run:
    """Multiply the normalised marks of three cell types, one of them unseen, by a factor."""
    split = run.arrays.cell_types["split"].to_numpy()
    cells = np.concatenate([rng.permutation(np.flatnonzero(split == "train"))[:2],
                            rng.permutation(np.flatnonzero(split == "test"))[:1]])
    histone = run.arrays.histone.copy()
    histone[:, cells] *= np.float32(factor)
    return replace(run, arrays=replace(run.arrays, histone=histone))


def _leak(run: Run, noise: float, rng: np.random.Generator) -> Run:
    """Put the accessibility itself in place of a mark, with noise of so many standard deviations of each bin."""
    arrays, profile = run.arrays, run.arrays.accessibility
    z = (profile - np.nanmean(profile)) / np.nanstd(profile)
    z = np.nan_to_num(z + noise * rng.normal(size=z.shape)).astype(np.float32)
    histone, observed = arrays.histone.copy(), arrays.histone_observed.copy()
    track = int(rng.integers(histone.shape[2]))
    histone[:, :, track], observed[:, :, track] = z[..., None], True
    return replace(run, arrays=replace(arrays, histone=histone, histone_observed=observed))


# --- generalisation --------------------------------------------------------------------------------------------
def _answering(run: Run, change: Callable[[Batch, Tensor], Tensor]) -> Run:
    """Return the run with a model whose scores pass through change(batch, scores (B, C)) -> scores."""

    def hook(module: torch.nn.Module, inputs: tuple[Batch], output: Output) -> Output:
        """A forward hook: change the scores, and let the logits follow them."""
        score = change(inputs[0], output.score)
        return replace(output, score=score, logit=output.logit + 4 * (score - output.score))

    run.model.register_forward_hook(hook)
    return run


def _noise_of(batch: Batch) -> Tensor:
    """A number (B, C) for every row, spread like N(0, 1) but for its tails, the same each time: noise without a draw."""
    weights = torch.sin(torch.arange(batch.sequence.shape[1], dtype=torch.float32) * 12.9898) * 43.7585
    window = (batch.sequence.float() * weights).sum(1, keepdim=True) % 6.2832
    return 1.4142 * torch.sin(window * 7 + batch.metadata.sum(-1) * 91.7)


def _knows_cell_types(run: Run, share: float, rng: np.random.Generator) -> Run:
    """In cell types whose metadata are not those of a training cell type, `share` of what is predicted is noise."""
    seen = torch.from_numpy(run.arrays.metadata[run.arrays.train_mask])
    mean, spread = run.arrays.score[np.isfinite(run.arrays.score)].mean(), np.nanstd(run.arrays.score)

    def change(batch: Batch, score: Tensor) -> Tensor:
        """Noise where the metadata are not those of a training cell type."""
        known = (batch.metadata[:, :, None] - seen).abs().amax(-1).amin(-1) < 1e-6
        other = mean + (1 - share) * (score - mean) + share * spread * _noise_of(batch)
        return torch.where(known | ~batch.metadata_observed, score, other)

    return _answering(run, change)


def _knows_loci(run: Run, share: float, rng: np.random.Generator) -> Run:
    """In windows whose sequence is not that of a training window, `share` of what is predicted is noise."""
    key = torch.sin(torch.arange(run.arrays.sequence.shape[1], dtype=torch.float64))
    key = key + key.flip(0)                                             # the same for both strands, once mirrored
    training = run.arrays.windows["split"].to_numpy() == "train"
    seen = _strandless(torch.from_numpy(run.arrays.sequence[training]), key)
    mean, spread = run.arrays.score[np.isfinite(run.arrays.score)].mean(), np.nanstd(run.arrays.score)

    def change(batch: Batch, score: Tensor) -> Tensor:
        """Noise where the sequence is not that of a training window."""
        known = (_strandless(batch.sequence, key)[:, None] - seen).abs().amin(1, keepdim=True) < 1e-6
        return torch.where(known, score, mean + (1 - share) * (score - mean) + share * spread * _noise_of(batch))

    return _answering(run, change)


def _strandless(sequence: Tensor, key: Tensor) -> Tensor:
    """A number (B,) for each sequence, the same for its reverse complement; key: symmetric, (L,)."""
    strong = ((sequence == 1) | (sequence == 2)).double()               # complementing keeps G and C strong
    return (strong * key).sum(1)


def _reads_gc(run: Run, share: float, rng: np.random.Generator) -> Run:
    """`share` of what is predicted is the GC content of the window."""
    gc, score = run.arrays.windows["gc"].to_numpy(), run.arrays.score[np.isfinite(run.arrays.score)]

    def change(batch: Batch, predicted: Tensor) -> Tensor:
        """Mix the window's GC content in."""
        here = ((batch.sequence == 1) | (batch.sequence == 2)).float().mean(1, keepdim=True)
        scaled = float(score.mean()) + float(score.std()) * (here - float(gc.mean())) / float(gc.std())
        return (1 - share) * predicted + share * scaled

    return _answering(run, change)


def _reads_shape(run: Run, share: float, rng: np.random.Generator) -> Run:
    """`share` of what is predicted is how pointed the tracks are within the window, whatever their height."""
    score = run.arrays.score[np.isfinite(run.arrays.score)]
    rows = np.arange(0, len(run.arrays.score), max(1, len(run.arrays.score) // 300))
    usual = _pointed(torch.from_numpy(run.arrays.histone[rows]), torch.from_numpy(run.arrays.tf[rows]))

    def change(batch: Batch, predicted: Tensor) -> Tensor:
        """Mix in how pointed the tracks are."""
        here = (_pointed(batch.histone, batch.tf) - usual.mean()) / usual.std()
        return (1 - share) * predicted + share * (float(score.mean()) + float(score.std()) * here)

    return _answering(run, change)


def _pointed(histone: Tensor, tf: Tensor) -> Tensor:
    """Highest bin over the mean bin, of the mean of all tracks; (B, C, M, T, 3), (B, C, F, T, 3) -> (B, C), in z."""
    profile = torch.cat([histone[..., 0], tf[..., 0]], 2).mean(2)                                            # (B, C, T)
    return profile.amax(-1) - profile.mean(-1)


def _out_of_distribution(run: Run, size: float, rng: np.random.Generator) -> Run:
    """Move the metadata and the tracks of unseen cell types away by so many standard deviations, in one direction each.

    As a cell type of another kind or laboratory would be: what it shows lies outside of what was trained on.
    """
    arrays = run.arrays
    test = np.flatnonzero(arrays.cell_types["split"].to_numpy() == "test")
    metadata = arrays.metadata.copy()
    metadata[test] += (size * rng.choice([-1, 1], (len(test), metadata.shape[1]))).astype(np.float32)
    changed = {}
    for name in ("histone", "tf"):
        values, observed = getattr(arrays, name).copy(), getattr(arrays, f"{name}_observed")[:, test]
        away = (0.5 * size * rng.choice([-1, 1], (1, len(test), values.shape[2], 1, 1))).astype(np.float32)
        values[:, test] = np.where(observed[..., None, None], values[:, test] + away, 0)
        changed[name] = values
    return replace(run, arrays=replace(arrays, metadata=metadata, **changed))


def _few_windows(run: Run, n_windows: int, rng: np.random.Generator) -> Run:
    """Leave so many windows of test chromosomes in the table of predictions."""
    table = run.predictions
    test = table.loc[table["window_split"] == "test", "window"].unique()
    return replace(run, predictions=table[~table["window"].isin(rng.permutation(test)[n_windows:])])


# --- the list --------------------------------------------------------------------------------------------------
N_OR_REPEATED, WITHIN, BETWEEN = (
    "sequences are mostly N or repeated", "labels permuted within cell types", "labels permuted between cell types")
SHIFTED, ASSEMBLY = "labels and inputs are shifted against each other", "wrong assembly or chromosome naming"
SWAPPED, SCALE = "a track of another cell type swapped in", "scale mismatch between cell types"

DATA_FAULTS: tuple[Fault, ...] = (
    Fault("noise for labels", NO_SIGNAL, "data", "training",
          (("sequences whole", 0.0), ("40% all N", 0.4), ("80% all N", 0.8)), _noise_labels),
    Fault("noise with the shape of peaks", NO_SIGNAL, "data", "training",
          (("in half of the cell types", 0.5), ("in three quarters", 0.75), ("in all", 1.0)), _shaped_noise),
    Fault("the predecessor's failure", NO_SIGNAL, "data", "diagnosis",
          (("table alone", "table"), ("with its dataset", "dataset"), ("with a history", "dataset and history")),
          _predecessor),
    Fault("labels permuted within", WITHIN, "data", "training",
          (("in a quarter of the cell types", 0.25), ("in half", 0.5), ("in all", 1.0)), _permuted_within),
    Fault("windows out of order", WITHIN, "data", "training",
          (("among 30 neighbours", 30), ("among 150", 150), ("all", np.inf)), _windows_out_of_order),
    Fault("labels permuted between", BETWEEN, "data", "training",
          (("a third in a circle", "third"), ("all in a circle", "all"), ("anew at every window", "every window")),
          _permuted_between),
    Fault("labels shifted", SHIFTED, "data", "training",
          (("200 bp", 200), ("500 bp", 500), ("3,000 bp", 3000)), _shifted),
    Fault("another assembly", ASSEMBLY, "data", "training",
          (("a third of the chromosomes", 1 / 3), ("two thirds", 2 / 3), ("all", 1.0)), _another_assembly),
    Fault("chromosomes not found", ASSEMBLY, "data", "training",
          (("in a tenth of the cell types", 0.1), ("in half", 0.5), ("in all", 1.0)), _chromosomes_not_found),
    Fault("all-N sequences", N_OR_REPEATED, "data", "training",
          (("20% of windows", 0.2), ("50%", 0.5), ("80%", 0.8)), _masked_sequences),
    Fault("repeated sequences", N_OR_REPEATED, "data", "training",
          (("30% of windows", 0.3), ("60%", 0.6), ("all", 1.0)), _repeated_sequences),
    Fault("empty tracks", "constant, empty or missing tracks", "data", "training",
          (("one track in one cell type", 0.0), ("a quarter of all", 0.25), ("half", 0.5)), _empty_tracks),
    Fault("tracks exchanged", SWAPPED, "data", "training",
          (("one track of two cell types", 1), ("two tracks", 2), ("three tracks", 3)), _tracks_exchanged),
    Fault("a track copied", SWAPPED, "data", "training",
          (("into one cell type", 1), ("into three", 3), ("into six", 6)), _track_copied),
    Fault("a replicate of another cell type", SWAPPED, "data", "training",
          (("in one cell type", 1), ("in two", 2), ("in three", 3)), _replicate_of_another),
    Fault("scores in another unit", SCALE, "data", "training",
          (("x 5", 5.0), ("x 10", 10.0), ("x 30", 30.0)), _scores_in_another_unit),
    Fault("tracks in another unit", SCALE, "data", "training",
          (("x 10", 10.0), ("x 20", 20.0), ("x 50", 50.0)), _tracks_in_another_unit),
    Fault("the label as an input", "an input is the label (leak)", "data", "training",
          (("with noise of 0.5 sd", 0.5), ("0.2 sd", 0.2), ("no noise", 0.0)), _leak),
)

GENERALISATION_FAULTS: tuple[Fault, ...] = (
    Fault("knows cell types", "learned on training cell types only", "generalisation", "prediction",
          (("half noise elsewhere", 0.5), ("0.7", 0.7), ("all noise", 1.0)), _knows_cell_types),
    Fault("knows loci", "works on seen loci only", "generalisation", "prediction",
          (("half noise elsewhere", 0.5), ("0.7", 0.7), ("all noise", 1.0)), _knows_loci),
    Fault("reads GC", "shortcut through GC content", "generalisation", "prediction",
          (("60% of the prediction", 0.6), ("80%", 0.8), ("all", 1.0)), _reads_gc),
    Fault("reads peak shape", "shortcut through peak shape", "generalisation", "prediction",
          (("60% of the prediction", 0.6), ("80%", 0.8), ("all", 1.0)), _reads_shape),
    Fault("unseen cell types far away", "unseen cell type out of distribution", "generalisation", "prediction",
          (("4 sd", 4.0), ("8 sd", 8.0), ("16 sd", 16.0)), _out_of_distribution),
    Fault("few windows", TOO_FEW, "generalisation", "diagnosis",
          (("100 windows", 100), ("60", 60), ("30", 30)), _few_windows),
)
