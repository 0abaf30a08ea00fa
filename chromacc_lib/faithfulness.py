"""Is an attribution of this model, and of what it learned? Deletion and insertion, and two checks of sanity.

Each comes beside what chance gives: bases in random order, a model whose weights say nothing, labels that say nothing.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy import stats

from chromacc_lib.attribution import shuffled_references
from chromacc_lib.dataset import Arrays
from chromacc_lib.inference import read_model_config
from chromacc_lib.model import ChromaccModel, ModelConfig
from chromacc_lib.scoring import Scorer, score_all
from chromacc_lib.training import FROM_DATA, TrainingConfig, train

__all__ = ["Curves", "agreement", "deletion_insertion", "label_randomised", "weights_randomised"]

SHARES = (0.0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 1.0)  # of the bases; motifs are a small part of a window


@dataclass(frozen=True)
class Curves:
    """Mean score of K windows while more and more bases are deleted, or put in, the most important first."""

    shares: np.ndarray  # (S,): of the bases
    deletion: np.ndarray  # (K, S): score with these bases shuffled away
    insertion: np.ndarray  # (K, S): score of a shuffled window with these bases put in
    random_deletion: np.ndarray  # (K, S): the same in random order
    random_insertion: np.ndarray  # (K, S)

    def table(self) -> pd.DataFrame:
        """Deletion and insertion: how far the curve lies from that of random order, the area between them.

        Areas are means over the shares of bases in between (arcsinh fold), so that scarce and many bases count alike.
        Columns: curve, value (mean over windows), low, high (95%), p_value (one-sided t-test over windows: is the order
        better than chance?). The value that chance gives is 0.
        """
        rows = []
        for name, by_order, by_chance, sign in (("deletion", self.deletion, self.random_deletion, -1),
                                                ("insertion", self.insertion, self.random_insertion, 1)):  # fmt: skip
            each = sign * (by_order - by_chance)[:, 1:-1].mean(1)
            test = stats.ttest_1samp(each, 0)
            low, high = test.confidence_interval(0.95)
            rows.append((name, each.mean(), low, high, stats.ttest_1samp(each, 0, alternative="greater").pvalue))
        return pd.DataFrame(rows, columns=["curve", "value", "low", "high", "p_value"])


def deletion_insertion(
    scorer: Scorer, codes: np.ndarray, contribution: np.ndarray, seed: int, n_random: int = 2, at_once: int = 64
) -> Curves:
    """Delete and insert the bases of K windows in the order of their contributions (Petsiuk et al. 2018), window k in place k.

    codes: uint8 (K, L). contribution: (K, L), the largest first; bases that lower the score come last. What a base is
    exchanged with is a shuffle of its window that keeps dinucleotide counts. Random orders are averaged over `n_random`.
    """
    codes, length = np.asarray(codes), np.shape(codes)[1]
    shuffled = shuffled_references(codes, 1, seed)[:, 0].numpy()
    shuffled = np.where(shuffled.any(2), shuffled.argmax(2), 4).astype(np.uint8)
    counts, rng = np.round(np.array(SHARES) * length).astype(int), np.random.default_rng(seed)
    orders = [np.argsort(-contribution, axis=1, kind="stable")]
    orders += [np.argsort(rng.random(codes.shape), axis=1) for _ in range(n_random)]
    curves = []
    for order in orders:
        rank = np.argsort(order, axis=1)
        first = rank[:, None] < counts[:, None]  # (K, S, L): the most important so many
        for inside, outside in ((shuffled, codes), (codes, shuffled)):
            mixed = np.where(first, inside[:, None], outside[:, None]).reshape(-1, length)
            places = np.repeat(np.arange(len(codes)), len(counts))
            curves.append(score_all(scorer, mixed, places, at_once).reshape(len(codes), -1))
    return Curves(
        np.array(SHARES), curves[0], curves[1], np.mean(curves[2::2], axis=0), np.mean(curves[3::2], axis=0)
    )


def agreement(one: np.ndarray, other: np.ndarray, seed: int) -> dict[str, float]:
    """How alike are two attributions (K, L) of the same windows?

    `value` is the mean over windows of Spearman's correlation over bases, `chance` the same with the windows of the other
    one exchanged at random, `sd_error` that of `value`. NaN where fewer than two windows have contributions in both.
    """
    there = (np.ptp(one, axis=1) > 0) & (np.ptp(other, axis=1) > 0)
    one, other = one[there], other[there]
    if len(one) < 2:
        return {"value": np.nan, "chance": np.nan, "sd_error": np.nan}
    exchanged = np.roll(np.random.default_rng(seed).permutation(len(one)), 1)
    value, chance = (np.array([stats.spearmanr(a, b).statistic for a, b in zip(one, x)]) for x in (other, other[exchanged]))
    return {"value": float(value.mean()), "chance": float(chance.mean()), "sd_error": float(stats.sem(value))}


def weights_randomised(model: ChromaccModel, seed: int) -> ChromaccModel:
    """A copy of the model whose every weight tensor is permuted: the same numbers, in places that say nothing.

    An attribution that is still the same was never one of what the model learned (Adebayo et al. 2018).
    """
    twin, generator = copy.deepcopy(model).eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weights in twin.parameters():
            order = torch.randperm(weights.numel(), generator=generator).to(weights.device)
            weights.copy_(weights.flatten()[order].view_as(weights))
    return twin


def label_randomised(
    arrays: Arrays, model_dir: str | Path, seed: int, n_windows: int = 0, epochs: int = 1
) -> tuple[ChromaccModel, str]:
    """Train a model on labels that were exchanged between windows: what attributions look like when nothing was learned.

    arrays: the run's. model_dir: of the run's model, whose architecture and training this one has, but for `epochs`.
    n_windows: of the training chromosomes that are trained on, 0 = all. Every window gets the accessibility of another one of
    its split, in all cell types alike, and with it the other one's locus average, so that nothing is left for sequence,
    histone marks and TFs to explain. Returns the model, in evaluation mode, and a sentence that says what was done.
    """
    written, rng, split = read_model_config(model_dir), np.random.default_rng(seed), arrays.windows["split"].to_numpy()
    other = np.arange(len(split))
    for name in np.unique(split):
        rows = np.flatnonzero(split == name)
        other[rows] = rng.permutation(rows)
    names = ("accessibility", "score", "label")
    windows = arrays.windows.copy()
    if n_windows:
        left_out = rng.permutation(np.flatnonzero(split == "train"))[n_windows:]
        windows.iloc[left_out, windows.columns.get_loc("split")] = "not used"
    exchanged = replace(arrays, windows=windows, truth=None, score_replicate=None,
                        **{name: getattr(arrays, name)[other] for name in names})  # fmt: skip
    settings = {f.name: written["training"][f.name] for f in fields(TrainingConfig) if f.name in written["training"]}
    config = TrainingConfig(**settings | {"epochs": epochs, "pretrain_epochs": 0, "validation_windows": 200, "stream_windows": 0})
    sizes = {f.name: written["model"][f.name] for f in fields(ModelConfig) if f.name not in FROM_DATA}
    result = train(exchanged, config, device="cpu", sizes=sizes)
    n = int((windows["split"] == "train").sum())
    return result.model.eval(), f"{n:,} training windows, {epochs} epoch{'s' if epochs > 1 else ''}"
