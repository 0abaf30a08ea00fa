"""Train the model: masked-accessibility regression with auxiliary binary classification, region-major batches.

The loop is Lightning Fabric's; what watches it comes in as callbacks, so that it never imports a plot.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric, seed_everything
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from chromacc_lib import ChromaccError
from chromacc_lib.batches import RegionData, Target, drop_inputs, mask_accessibility, region_batches
from chromacc_lib.dataset import Arrays
from chromacc_lib.jaspar import matrices_of
from chromacc_lib.model import Batch, ChromaccModel, ModelConfig, Output

__all__ = ["TrainingConfig", "TrainingResult", "build_model", "choose_device", "model_config", "objective", "save_model",
           "train"]  # fmt: skip

MATRICES_PER_TF = 4  # JASPAR has several of some TFs: alone, in dimers, of two lengths
BRANCHES = ("sequence_encoder", "histone_encoder", "tf_encoder", "cell_gate", "cell_token", "prior_token", "fusion",
            "encoder", "score_head", "label_head", "profile_head")  # fmt: skip


@dataclass(frozen=True)
class TrainingConfig:
    """How the model is trained. The loss is score MSE + profile_weight x masked MSE + label_weight x BCE."""

    epochs: int = 5
    batch_windows: int = 32
    cells_per_window: int = 7
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_share: float = 0.05  # of all steps, linear; then cosine to zero
    clip_norm: float = 1.0
    ema_decay: float = 0.99  # of the averaged weights that are validated and kept; 0 = the raw weights
    profile_weight: float = 0.2
    label_weight: float = 0.1
    first_fully_masked: float = 0.6  # share of samples with every token masked at the start; all of them at the end
    partly_masked: float = 0.5  # share of tokens masked in the other samples
    drop_assay: float = 0.1
    drop_modality: float = 0.05
    metadata_noise: float = 0.2  # sd, in sd of the training cell types
    motif_prior: bool = True  # start kernels and gates at the JASPAR motifs of the metadata's and tracks' TFs
    validation_windows: int = 1000  # at most so many, evenly spaced
    seed: int = 1


@dataclass(frozen=True)
class TrainingResult:
    """The best model by validation, on the CPU and in evaluation mode, and what each epoch was like."""

    model: ChromaccModel
    history: pd.DataFrame  # one row an epoch; see `_epoch_row` for its columns
    best_epoch: int
    device: str
    validation: str  # on which rows the checkpoint was chosen, in words
    motifs: dict[str, str]  # {TF: JASPAR identifier} that the kernels started from


def choose_device(device: str = "auto") -> str:
    """Return "cuda" or "cpu". Raises `ChromaccError` when a GPU is asked for by name and none is there."""
    if device not in ("auto", "cpu", "cuda"):
        raise ChromaccError(f"device={device!r} is not known; allowed: 'auto', 'cpu', 'cuda'.")
    if device == "cuda" and not torch.cuda.is_available():
        raise ChromaccError("device='cuda', but PyTorch finds no usable GPU here; set device='cpu' or 'auto'.")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def model_config(arrays: Arrays, **sizes) -> ModelConfig:
    """The model that fits a dataset; the heads start at the means of the training cell types x training chromosomes."""
    rows = np.ix_(arrays.windows["split"].to_numpy() == "train", arrays.train_mask)
    score, label = arrays.score[rows], arrays.label[rows]
    if not np.isfinite(score).any() or not (label == 1).any() or not (label == 0).any():
        raise ChromaccError(
            "model_config: the training rows (training cell types x training chromosomes) need known scores and both "
            f"open and closed windows; got {np.isfinite(score).sum()} scores, {(label == 1).sum()} open, "
            f"{(label == 0).sum()} closed. Look at the split and at the peaks of the training cell types."
        )
    return ModelConfig(
        histone_marks=arrays.histone_marks, tfs=arrays.tfs, features=arrays.features,
        window_bp=arrays.sequence.shape[1], n_bins=arrays.accessibility.shape[2],
        score_mean=float(np.nanmean(score)), positive_share=float((label == 1).sum() / (label >= 0).sum()), **sizes,
    )  # fmt: skip


def build_model(arrays: Arrays, motif_prior: bool, sizes: dict | None = None) -> tuple[ChromaccModel, dict[str, str]]:
    """An untrained model for a dataset, and the motifs that it starts from, {TF: JASPAR identifiers} (maybe none)."""
    model = ChromaccModel(model_config(arrays, **(sizes or {})))
    tfs = dict.fromkeys((*arrays.features, *arrays.tfs)) if motif_prior else {}
    known = matrices_of(tfs, MATRICES_PER_TF, model.config.motif_kernel_bp)
    known = known[: model.config.d_model // 2]  # half of the kernels stay free to find their own
    model.start_from_motifs([(tf, torch.from_numpy(matrix)) for tf, _, matrix in known])
    return model, {tf: ", ".join(i for name, i, _ in known if name == tf) for tf in dict.fromkeys(tf for tf, *_ in known)}


def train(
    arrays: Arrays, config: TrainingConfig, device: str = "auto", sizes: dict | None = None,
    callbacks: Sequence[Callable[[dict], None]] = (),
) -> TrainingResult:  # fmt: skip
    """Train on training cell types x training chromosomes; keep the epoch with the lowest validation score MSE.

    `sizes` overrides fields of `ModelConfig`; each callback gets the row of the epoch that ended. The same seed on the
    same machine gives the same weights. Raises `ChromaccError` at the first loss that is not finite.
    """
    seed_everything(config.seed, verbose=False)
    fabric = Fabric(accelerator=choose_device(device), devices=1)
    model, motifs = build_model(arrays, config.motif_prior, sizes)
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    wrapped, optimiser = fabric.setup(model, optimiser)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
    data, rng = RegionData(arrays), np.random.default_rng(config.seed)
    windows = np.flatnonzero(arrays.windows["split"].to_numpy() == "train")
    cells = np.flatnonzero(arrays.train_mask)
    validation = _Validation(arrays, data, config)
    steps = config.epochs * max(1, round(len(windows) / config.batch_windows))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _learning_rate(step, steps, config))
    rows, best, best_state = [], math.inf, None
    for epoch in range(1, config.epochs + 1):
        start, losses = time.perf_counter(), []
        batches = list(region_batches(windows, cells, config.batch_windows, config.cells_per_window, rng))
        wrapped.train()
        for w, c in tqdm(batches, desc=f"epoch {epoch} of {config.epochs}", unit="batch", leave=False):
            masked_share = config.first_fully_masked + (1 - config.first_fully_masked) * schedule.last_epoch / steps
            losses.append(_step(fabric, wrapped, optimiser, data, (w, c), masked_share, config, rng))
            schedule.step()
            average.update_parameters(model)
        seconds, samples = time.perf_counter() - start, sum(c.size for _, c in batches)
        rows.append(_epoch_row(epoch, losses, validation(average.module), schedule.get_last_lr()[0], seconds, samples))
        for callback in callbacks:
            callback(rows[-1])
        if rows[-1]["validation_mse"] < best:
            state = average.module.state_dict()
            best, best_state = rows[-1]["validation_mse"], {k: v.cpu().clone() for k, v in state.items()}
    if best_state is None:
        raise ChromaccError("train: epochs must be 1 or more, and validation scores known; nothing was trained.")
    model = model.to("cpu").eval()
    model.load_state_dict(best_state)
    history = pd.DataFrame(rows)
    best_epoch = int(history["epoch"][history["validation_mse"].idxmin()])
    return TrainingResult(model, history, best_epoch, str(fabric.device), validation.words, motifs)


def _learning_rate(step: int, steps: int, config: TrainingConfig) -> float:
    """Share of the peak rate: linear warm-up, then half a cosine to zero (Loshchilov & Hutter 2017)."""
    warmup = max(1, round(config.warmup_share * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def _step(
    fabric: Fabric, model: nn.Module, optimiser: torch.optim.Optimizer, data: RegionData,
    index: tuple[np.ndarray, np.ndarray], masked_share: float, config: TrainingConfig, rng: np.random.Generator,
) -> dict[str, float]:  # fmt: skip
    """One step on one region-major batch; returns its losses and the gradient norm of each branch before clipping."""
    start = time.perf_counter()
    batch, target = data.batch(*index), data.target(*index)
    batch = drop_inputs(batch, config.drop_assay, config.drop_modality, config.metadata_noise, rng)
    batch = mask_accessibility(batch, target, masked_share, config.partly_masked, rng)
    if rng.random() < 0.5:
        batch, target = batch.reverse_complement(), Target(target.score, target.label, target.profile.flip(2))
    batch, target = batch.to(fabric.device), Target(*(t.to(fabric.device) for t in vars(target).values()))
    waited = time.perf_counter() - start
    loss, parts = objective(model(batch), batch, target, config)
    if not math.isfinite(loss.item()):
        raise ChromaccError(
            f"train: the loss became {loss.item()} ({parts}); lower learning_rate (now {config.learning_rate}) or "
            "lengthen warmup_share, and look at the dataset for values that are not finite."
        )
    optimiser.zero_grad()
    fabric.backward(loss)
    norms = {f"grad_{name}": _grad_norm(getattr(model, name)) for name in BRANCHES}
    total = fabric.clip_gradients(model, optimiser, max_norm=config.clip_norm)
    optimiser.step()
    return {**parts, **norms, "grad_norm": float(total), "wait": waited, "step": time.perf_counter() - start}


def objective(output: Output, batch: Batch, target: Target, config: TrainingConfig) -> tuple[Tensor, dict[str, float]]:
    """The loss and its terms: score MSE, MSE of the profile at masked tokens, binary cross-entropy of the label."""
    known = target.score.isfinite()
    hidden = ~batch.accessibility_observed & target.profile.isfinite()
    labelled = target.label >= 0
    score = _mean_where((output.score - target.score.nan_to_num()) ** 2, known)
    profile = _mean_where((output.profile - target.profile.nan_to_num()) ** 2, hidden)
    entropy = F.binary_cross_entropy_with_logits(output.logit, target.label.clamp(0).float(), reduction="none")
    label = _mean_where(entropy, labelled)
    loss = score + config.profile_weight * profile + config.label_weight * label
    return loss, {
        "train_loss": loss.item(), "train_score_mse": score.item(), "train_profile_mse": profile.item(),
        "train_bce": label.item(),
    }  # fmt: skip


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)


def _grad_norm(branch: nn.Module | None) -> float:
    """L2 norm of a branch's gradient; NaN for a branch that this dataset has no input for."""
    if branch is None:
        return math.nan
    norms = [p.grad.norm() for p in branch.parameters() if p.grad is not None]
    return float(torch.stack(norms).norm()) if norms else 0.0


class _Validation:
    """Score the rows on which a checkpoint is chosen: validation cell types x validation chromosomes.

    Where there are no validation cell types, training cell types on validation chromosomes (with their leave-one-out
    prior) take their place, and `words` says so. Test rows are never looked at.
    """

    def __init__(self, arrays: Arrays, data: RegionData, config: TrainingConfig) -> None:
        split = arrays.cell_types["split"].to_numpy()
        self.unseen = bool((split == "validation").any())
        self.cells = np.flatnonzero(split == ("validation" if self.unseen else "train"))
        windows = np.flatnonzero(arrays.windows["split"].to_numpy() == "validation")
        if not len(windows):
            raise ChromaccError("train: no window lies on a validation chromosome; name some in validation_chromosomes.")
        self.windows = windows[:: max(1, math.ceil(len(windows) / config.validation_windows))]
        self.data = data
        kind = "unseen (validation)" if self.unseen else "training"
        self.words = f"{len(self.cells)} {kind} cell types x {len(self.windows)} windows of validation chromosomes"

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Validation figures of `model`, every accessibility token masked; its training mode is restored."""
        was_training, device = model.training, next(model.parameters()).device
        model.eval()
        parts = []
        for chunk in np.array_split(self.windows, max(1, len(self.windows) // 32)):
            output, target = model(self.data.batch(chunk, self.cells).to(device)), self.data.target(chunk, self.cells)
            average = self.data.prior_score[torch.as_tensor(chunk)[:, None], torch.as_tensor(self.cells)[None]]
            parts.append(torch.stack([output.score.cpu(), target.score, average], -1).flatten(0, 1))
        model.train(was_training)
        predicted, measured, average = torch.cat(parts).double().numpy().T
        known = np.isfinite(measured)
        predicted, measured, average = predicted[known], measured[known], average[known]
        mse, base = np.mean((predicted - measured) ** 2), np.mean((average - measured) ** 2)
        spread = predicted.std() > 0 and measured.std() > 0
        return {
            "validation_mse": float(mse), "validation_skill": float(1 - mse / base),
            "validation_pearson": float(np.corrcoef(predicted, measured)[0, 1]) if spread else math.nan,
            "prediction_std": float(predicted.std()), "label_std": float(measured.std()),
        }  # fmt: skip


def _epoch_row(
    epoch: int, steps: list[dict[str, float]], validation: dict[str, float], rate: float, seconds: float, samples: int
) -> dict[str, float]:
    """Mean of every figure over the epoch's steps, the validation figures, and speed in (window, cell type) samples."""
    means = pd.DataFrame(steps).mean().to_dict()
    waited = means.pop("wait") / means.pop("step")
    return {
        "epoch": epoch, "learning_rate": rate, **means, **validation, "seconds": seconds,
        "samples_per_second": samples / seconds, "share_waiting_for_data": waited,
    }  # fmt: skip


def save_model(result: TrainingResult, config: TrainingConfig, out_dir: str | Path, extra: dict, card: str) -> None:
    """Write `model.safetensors`, `config.json`, `history.csv` and `model_card.md` to `out_dir`.

    `extra` (dataset, splits, versions) goes into config.json beside the two configs.
    """
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in result.model.state_dict().items()}, out / "model.safetensors")
    result.history.to_csv(out / "history.csv", index=False)
    (out / "model_card.md").write_text(card)
    content = {
        "model": asdict(result.model.config), "training": asdict(config), "best_epoch": result.best_epoch,
        "device": result.device, "validation": result.validation, "started_from_motifs": result.motifs, **extra,
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(content, indent=1))
