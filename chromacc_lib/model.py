"""The multi-modal transformer, read from top to bottom: config, batch, encoders, model.

One window of DNA is the same in every cell type, so a batch is region-major: B windows, and C cell types for each of
them. The sequence encoder runs once a window; what it found is multiplied by what the cell type expresses.
A token is a place: the T tokens of every modality line up with the T bins of the window.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from chromacc_lib import ChromaccError
from chromacc_lib.layers import SharedBatchNorm, TransformerStack

__all__ = ["Batch", "ChromaccModel", "ModelConfig", "Output", "MODALITIES"]

MODALITIES = ("sequence", "histone", "tf", "cell", "prior")  # the order of the fusion's keys
N_STATISTICS = 3  # mean, variance, max
SEQUENCE_TOKENS, GATES = ("patch", "kmer"), ("multiplicative", "additive")
LONGEST_KMER = 8  # a bin's counts are 4^k numbers, at 8 bp as dear as all the rest of the model
NORM_GROUPS = 8  # of the histone encoder's filters


@dataclass(frozen=True)
class ModelConfig:
    """Sizes of the model and the names, in order, of what it reads. Loading refuses tracks of other names."""

    histone_marks: tuple[str, ...]
    tfs: tuple[str, ...]
    features: tuple[str, ...]  # cell metadata: log2(TPM + 1) of these genes
    window_bp: int = 1500
    n_bins: int = 15  # tokens a window: cost grows with it, and 100 bp still separates a summit from its flanks
    d_model: int = 128
    sequence_tokens: str = "patch"  # or "kmer": the mean embedding of a bin's k-mers, without order and without kernels
    motif_kernel_bp: int = 19  # of patches; as long as CTCF's motif, the longest common one
    kmer: int = 6  # bp, of k-mer tokens: 2,080 rows, as a k-mer and its reverse complement share one
    sequence_layers: int = 4
    sequence_heads: int = 4
    histone_filters: int = 64
    histone_blocks: int = 3
    tf_hidden: int = 128
    gate: str = "multiplicative"  # or "additive": the metadata are one more token and never meet the motifs
    encoder_layers: int = 6
    encoder_heads: int = 8
    mlp_ratio: int = 4
    dropout: float = 0.1
    locus_prior: bool = True  # read what the training cell types show at the locus; False: never, for comparison
    state_prior: bool = True  # and how those of like metadata depart from their average; False: never
    score_hidden: int = 64
    score_mean: float = 0.0  # mean training score: where the heads start when no locus prior is given
    positive_share: float = 0.5  # training base rate: where the binary head starts

    def __post_init__(self) -> None:
        """Raise `ChromaccError` that lists everything that does not fit together."""
        if self.window_bp % self.n_bins:
            divisors = [n for n in range(5, 61) if self.window_bp % n == 0]
            raise ChromaccError(
                f"ModelConfig: n_bins={self.n_bins} does not divide window_bp={self.window_bp}, so tokens and bins "
                f"would not line up; choose one of {divisors}."
            )
        longest = min(LONGEST_KMER, self.window_bp // self.n_bins)
        sizes = ("d_model", "sequence_layers", "sequence_heads", "histone_filters", "histone_blocks", "tf_hidden",
                 "encoder_layers", "encoder_heads", "mlp_ratio", "score_hidden")  # fmt: skip
        wrong = [f"{name}={getattr(self, name)}: needs 1 or more" for name in sizes if getattr(self, name) < 1]
        for name, allowed in {"sequence_tokens": SEQUENCE_TOKENS, "gate": GATES}.items():
            if getattr(self, name) not in allowed:
                wrong.append(f"{name}={getattr(self, name)!r} is not known; allowed: {', '.join(allowed)}")
        if self.sequence_tokens == "kmer" and not 2 <= self.kmer <= longest:
            wrong.append(f"kmer={self.kmer}: needs 2 to {longest} bp")
        if self.motif_kernel_bp % 2 == 0:
            wrong.append(f"motif_kernel_bp={self.motif_kernel_bp}: needs to be odd, with a centre on both strands")
        if not 0 <= self.dropout < 1:
            wrong.append(f"dropout={self.dropout}: needs 0 or more, and less than 1")
        for name, by, unit in (("d_model", self.sequence_heads, "sequence_heads"),
                               ("d_model", self.encoder_heads, "encoder_heads"),
                               ("histone_filters", NORM_GROUPS, "groups of its normalisation")):  # fmt: skip
            if by > 0 and getattr(self, name) % by:
                wrong.append(f"{name}={getattr(self, name)}: needs a multiple of {by} ({unit})")
        if wrong:
            raise ChromaccError("ModelConfig: " + "; ".join(wrong) + ".")


@dataclass(eq=False)  # not frozen: Fabric moves and casts the tensors of what it is given
class Batch:
    """B windows x C cell types. Signals are normalised (0 where missing); every `*_observed` mask is bool."""

    sequence: Tensor  # uint8 codes (B, L), 0..3 = ACGT, 4 = N; or float one-hot (B, L, 4)
    histone: Tensor  # (B, C, M, T, 3)
    histone_observed: Tensor  # (B, C, M)
    tf: Tensor  # (B, C, F, T, 3)
    tf_observed: Tensor  # (B, C, F)
    metadata: Tensor  # (B, C, E)
    metadata_observed: Tensor  # (B, C)
    prior: Tensor  # (B, C, T, 3) the training cell types' mean and sd, arcsinh fold, and how those of like metadata depart
    prior_score: Tensor  # (B, C)
    prior_observed: Tensor  # (B, C)
    accessibility: Tensor  # (B, C, T) arcsinh fold
    accessibility_observed: Tensor  # (B, C, T); all False for a cell type that nobody has assayed

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return Batch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def without_unobserved(self) -> Batch:
        """The same batch with 0 for every value that is not observed: what stood there, NaN too, can have no say.

        How cell types of like metadata depart from the mean is observed where both prior and metadata are.
        """

        def kept(name: str, observed: str) -> Tensor:
            """Values, 0 where they are not observed."""
            values, mask = getattr(self, name), getattr(self, observed)
            mask = mask.view(*mask.shape, *[1] * (values.ndim - mask.ndim))
            return torch.where(mask, values, torch.zeros_like(values))

        names = ("histone", "tf", "metadata", "prior", "accessibility")
        values = {name: kept(name, f"{name}_observed") for name in names}
        both = self.prior_observed & self.metadata_observed
        values["prior"][..., 2] = torch.where(both[..., None], values["prior"][..., 2], 0.0)
        return replace(self, **values, prior_score=kept("prior_score", "prior_observed"))

    def reverse_complement(self) -> Batch:
        """The same windows read from the other strand: bases complemented, every bin axis reversed."""
        if self.sequence.dtype == torch.uint8:
            sequence = torch.where(self.sequence < 4, 3 - self.sequence, self.sequence).flip(1)
        else:
            sequence = self.sequence.flip(1, 2)
        flipped = {name: getattr(self, name).flip(2) for name in ("prior", "accessibility", "accessibility_observed")}
        return replace(self, sequence=sequence, histone=self.histone.flip(3), tf=self.tf.flip(3), **flipped)


@dataclass(eq=False)
class Output:
    """Predictions of a batch, in arcsinh fold over the genome-wide mean (score, profile) and logits (label)."""

    score: Tensor  # (B, C)
    logit: Tensor  # (B, C)
    profile: Tensor  # (B, C, T)
    attention: dict[str, Tensor] | None = None  # with return_attention: see `ChromaccModel.forward`
    tokens: Tensor | None = None  # (B, C, T, d) what the heads read


class KmerContent(nn.Module):
    """Which k-mers a bin holds: the mean embedding of those that lie within it.

    A k-mer and its reverse complement share a row, so both strands count alike; a k-mer with an N has none. They are
    counted by products of one-hot bases, exact for a sequence and with a gradient for attributions, where a table of
    indices would have none.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.k, self.bin_bp = config.kmer, config.window_bp // config.n_bins
        words = torch.cartesian_prod(*[torch.arange(4)] * self.k)  # (4^k, k), in the order of their numbers
        place_value = 4 ** torch.arange(self.k - 1, -1, -1)
        strands = (words * place_value).sum(1), ((3 - words.flip(1)) * place_value).sum(1)
        kinds, row = torch.minimum(*strands).unique(return_inverse=True)
        self.register_buffer("row", row, persistent=False)  # of each k-mer in the table
        self.table = nn.Embedding(len(kinds), config.d_model)
        nn.init.normal_(self.table.weight, std=0.1)  # normalised behind the mean: small rows learn at the usual rates

    def forward(self, x: Tensor) -> Tensor:
        """One-hot (B, L, 4), zeros at an N -> (B, d, T), zeros for a bin without a k-mer."""
        b, n, half = len(x), self.bin_bp - self.k + 1, self.k // 2
        bins = x.reshape(-1, self.bin_bp, 4)  # (B, L, 4) -> (B * T, bp, 4)
        left, right = self._words(bins[:, : n + half - 1], n), self._words(bins[:, half:], n)
        counts = (left.transpose(1, 2) @ right).flatten(1)  # summed over places: (B * T, 4^half, 4^(k - half)) -> 4^k
        mean = counts @ self.table(self.row) / counts.sum(1, keepdim=True).clamp(min=1)
        return mean.view(b, -1, mean.shape[1]).transpose(1, 2)

    @staticmethod
    def _words(bins: Tensor, n: int) -> Tensor:
        """The words that start at the first n places (N, bp, 4) -> (N, n, 4^(bp - n + 1)), 1 where one stands."""
        words = bins[:, :n]
        for shift in range(1, bins.shape[1] - n + 1):
            words = (words[..., None] * bins[:, shift : shift + n, None]).flatten(2)
        return words


class SequenceEncoder(nn.Module):
    """Embedding of one-hot DNA, one token a bin, then a Transformer over them.

    A patch is embedded by scanning it with motif-sized kernels on both strands and keeping the best match of each
    kernel (after DeepBind, Alipanahi et al. 2015): a patch of 100 bp is a place, but a motif may stand anywhere in it.
    With k-mer tokens, what the bin's k-mers say stands in the place of the kernels' matches.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.scan = self.kmers = None
        if config.sequence_tokens == "kmer":
            self.kmers = KmerContent(config)
        else:
            self.patch_bp = patch_bp = config.window_bp // config.n_bins
            self.scan = nn.Conv1d(4, config.d_model, config.motif_kernel_bp, padding=config.motif_kernel_bp // 2)
            self.best_forward, self.best_backward = nn.MaxPool1d(patch_bp), nn.MaxPool1d(patch_bp)
            self.best_strand = nn.MaxPool2d((2, 1))
        self.match_norm = SharedBatchNorm(config.d_model)
        self.activation = nn.GELU()
        self.embed = nn.Linear(config.d_model, config.d_model)
        self.stack = TransformerStack(
            config.n_bins, config.d_model, config.sequence_layers, config.sequence_heads, config.mlp_ratio,
            config.dropout,
        )  # fmt: skip

    def forward(self, sequence: Tensor, return_weights: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """Codes (B, L) or one-hot (B, L, 4) -> motif matches (B, T, d), tokens (B, T, d), attention weights or None."""
        codes = sequence.dtype == torch.uint8
        if codes and not sequence.is_cuda and self.scan:
            found = self._best_matches(sequence)
        else:
            table = torch.eye(5, 4, device=sequence.device)  # N is a row of zeros
            one_hot = F.embedding(sequence.int(), table) if codes else sequence
            found = self.kmers(one_hot) if self.kmers else self._pooled_scan(one_hot)
        matches = self.activation(self.match_norm(found)).transpose(1, 2)  # (B, d, T) -> (B, T, d)
        return matches, *self.stack(self.embed(matches), return_weights)

    def _pooled_scan(self, sequence: Tensor) -> Tensor:
        """One-hot (B, L, 4) -> best match of each kernel in each patch (B, d, T): every place scored, then pooled.

        By modules that attribution methods know; GPUs are fast at it.
        """
        x = sequence.transpose(1, 2)  # (B, L, 4) -> (B, 4, L)
        flipped = F.conv1d(x, self.scan.weight.flip(1, 2), self.scan.bias, padding=self.scan.padding)
        # The best match of each patch, (B, d, L) -> (B, d, T), then of the two strands: small before they meet.
        strands = torch.stack([self.best_forward(self.scan(x)), self.best_backward(flipped)], 2)  # (B, d, 2, T)
        return self.best_strand(strands).squeeze(2)

    @torch.compiler.disable  # torch 2.13's compiler takes strides for others than they are, and refuses a view
    def _best_matches(self, codes: Tensor) -> Tensor:
        """Codes (B, L) -> the same as `_pooled_scan`, faster on CPUs.

        Only the best match has a gradient: it is looked for without one, and what was found is scored once more, as
        the sum of what the kernel has for each of its bases.
        """
        (b, _), (d, _, width) = codes.shape, self.scan.weight.shape
        codes = F.pad(codes, (width // 2, width // 2), value=4)
        best, at = self._search(codes)
        if not torch.is_grad_enabled():
            return torch.maximum(best[:, :d], best[:, d:]) + self.scan.bias[:, None]
        other = torch.where(codes < 4, 3 - codes, codes).flip(1)
        strands = torch.cat([codes, other], 1)  # a match on the other strand is read there from its own first base
        start = torch.where(best[:, :d] >= best[:, d:], at[:, :d], strands.shape[1] - width - at[:, d:])
        # Rows of a kernel's table are (place, base), the N of each place 0; which of them a match at each start takes:
        rows = strands.unfold(1, width, 1) + 5 * torch.arange(width, dtype=torch.int16)  # (B, starts, width)
        first = rows.shape[1] * torch.arange(b)[:, None, None]
        found = rows.flatten(0, 1).index_select(0, (first + start).transpose(0, 1).flatten()).view(d, -1)
        table = F.pad(self.scan.weight.transpose(1, 2), (0, 1)).flatten(1)  # (d, 4, width) -> (d, width * 5)
        score = table.gather(1, found.long()).view(d, b, -1, width).sum(3)
        return score.transpose(0, 1) + self.scan.bias[:, None]

    @torch.no_grad()
    def _search(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Best score and its first base in each patch, of the kernels and then of their reverse complements (B, 2d, T)."""
        x, found = F.embedding(codes.int(), torch.eye(5, 4)), []  # N is a row of zeros
        kernels = torch.cat([self.scan.weight, self.scan.weight.flip(1, 2)]).flatten(1)
        for part in x.split(4):  # their scores must fit the cache
            scores = F.linear(part.unfold(1, self.scan.weight.shape[2], 1).flatten(2), kernels)  # (n, L, 2d)
            pooled = F.max_pool2d(scores[:, :, None].permute(0, 3, 1, 2), (self.patch_bp, 1), return_indices=True)
            found.append([one.squeeze(3) for one in pooled])  # (n, 2d, T)
        best, at = (torch.cat(parts) for parts in zip(*found))
        return best, at


class HistoneEncoder(nn.Module):
    """1D CNN over bins: three convolutional blocks of 64 filters; which marks are observed comes in as channels."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        marks, width = len(config.histone_marks), config.histone_filters
        sizes = [marks * (N_STATISTICS + 1)] + [width] * config.histone_blocks
        self.blocks = nn.ModuleList(
            nn.ModuleDict({
                "conv": nn.Conv1d(a, b, 3, padding=1), "norm": nn.GroupNorm(NORM_GROUPS, b), "activation": nn.GELU()
            })
            for a, b in zip(sizes[:-1], sizes[1:])
        )
        self.project = nn.Linear(width, config.d_model)

    def forward(self, signal: Tensor, observed: Tensor) -> Tensor:
        """signal (N, M, T, 3) and observed (N, M) -> tokens (N, T, d)."""
        n, m, t, s = signal.shape
        mask = observed[:, :, None].expand(n, m, t).to(signal.dtype)
        x = torch.cat([signal.transpose(2, 3).reshape(n, m * s, t), mask], 1)
        for block in self.blocks:
            x = block["activation"](block["norm"](block["conv"](x)))
        return self.project(x.transpose(1, 2))


class TFEncoder(nn.Module):
    """MLP over the TF-binding signals of a bin (the statistics of each TF and whether it was assayed), hidden 128."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.hidden = nn.Linear(len(config.tfs) * (N_STATISTICS + 1), config.tf_hidden)
        self.activation = nn.GELU()
        self.project = nn.Linear(config.tf_hidden, config.d_model)

    def forward(self, signal: Tensor, observed: Tensor) -> Tensor:
        """signal (N, F, T, 3) and observed (N, F) -> tokens (N, T, d)."""
        n, f, t, s = signal.shape
        mask = observed[:, None, :].expand(n, t, f).to(signal.dtype)
        x = torch.cat([signal.transpose(1, 2).reshape(n, t, f * s), mask], 2)
        return self.project(self.activation(self.hidden(x)))


class CellGate(nn.Module):
    """Meets the sequence multiplicatively: a motif match counts as much as the cell type expresses its TF.

    The gate stands right behind the motif scan, where a channel is one motif, and is linear in expression by design:
    with a dozen cell types to learn from, a deeper gate learns the cell types by heart. Without metadata it is 1. In a
    dataset that knows no expression at all, what the histone and TF tracks show in the window takes its place.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.knows_cells = bool(config.features)
        self.of_cell = nn.Linear(len(config.features) if self.knows_cells else config.d_model, config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, matches: Tensor, metadata: Tensor, observed: Tensor, signal: Tensor) -> Tensor:
        """What the matches make of the place: (B, C, T, d).

        matches (B, T, d), metadata (B, C, E), observed (B, C), signal (B, C, d): the tokens of the histone and TF tracks,
        the mean over the window.
        """
        gate = 1 + (self.of_cell(metadata) * observed[..., None].to(metadata.dtype) if self.knows_cells else self.of_cell(signal))
        return self.out(matches[:, None] * gate[:, :, None])  # (B, 1, T, d) * (B, C, 1, d)


class Fusion(nn.Module):
    """Cross-modal attention: each accessibility token attends to what every modality says of its place.

    Missing modalities are masked out; a learned null key keeps the softmax defined when all of them are missing.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        d, self.heads = config.d_model, config.encoder_heads
        self.kind = nn.Parameter(0.02 * torch.randn(len(MODALITIES) + 1, d))  # the last one is the null key
        self.norm_query, self.norm_key = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query, self.key_value, self.out = nn.Linear(d, d), nn.Linear(d, 2 * d), nn.Linear(d, d)
        self.softmax = nn.Softmax(0)

    def forward(self, query: Tensor, modalities: list[Tensor], observed: Tensor) -> tuple[Tensor, Tensor]:
        """query (N, T, d), five tokens (N, T, d), observed (N, 5) -> tokens (N, T, d), weights (N, T, heads, 6).

        Tokens that are the same at every place may come as (N, 1, d).
        """
        n, _, d = query.shape
        by_head = (self.heads, d // self.heads)
        q = self.query(self.norm_query(query)) / math.sqrt(d // self.heads)
        logits, values = [], []
        for tokens, kind in zip([*modalities, query.new_zeros(1, 1, d)], self.kind):
            k, v = self.key_value(self.norm_key(tokens) + kind).chunk(2, -1)
            logits.append((q * k).unflatten(2, by_head).sum(-1))  # (N, T, d) -> (N, T, H)
            values.append(v.unflatten(2, by_head))
        present = torch.cat([observed, observed.new_ones(n, 1)], 1).T[:, :, None, None]  # (6, N, 1, 1)
        weights = self.softmax(torch.stack(logits).masked_fill(~present, float("-inf")))
        fused = sum(weight[..., None] * value for weight, value in zip(weights, values))  # (N, T, H, d/H)
        return query + self.out(fused.flatten(2)), weights.permute(1, 2, 3, 0)


class ChromaccModel(nn.Module):
    """Sequence, histone marks, TF binding, cell metadata and the locus prior, fused to predict accessibility."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        d = config.d_model
        self.sequence_encoder = SequenceEncoder(config)
        self.histone_encoder = HistoneEncoder(config) if config.histone_marks else None
        self.tf_encoder = TFEncoder(config) if config.tfs else None
        gated = config.gate == "multiplicative" and (config.features or config.histone_marks or config.tfs)
        self.cell_gate = CellGate(config) if gated else None
        self.cell_token = nn.Linear(len(config.features), d) if config.features else None
        self.prior_token = nn.Linear(4, d)
        self.accessibility_token = nn.Linear(1, d)
        self.mask_token = nn.Parameter(0.02 * torch.randn(d))
        self.fusion = Fusion(config)
        self.encoder = TransformerStack(
            config.n_bins, d, config.encoder_layers, config.encoder_heads, config.mlp_ratio, config.dropout
        )
        self.score_head = nn.Sequential(nn.Linear(d, config.score_hidden), nn.GELU(), nn.Linear(config.score_hidden, 1))
        self.label_head = nn.Sequential(nn.Linear(d, config.score_hidden), nn.GELU(), nn.Linear(config.score_hidden, 1))
        self.profile_head = nn.Linear(d, 1)
        # Heads predict what differs from the locus prior. The label follows the score, and its loss leaves that alone.
        self.prior_slope, self.departure_slope = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))  # score, profile
        self.label_slope = nn.Parameter(torch.tensor(3.0))
        for head in (self.score_head[-1], self.label_head[-1], self.profile_head):
            nn.init.normal_(head.weight, std=0.02)
            nn.init.zeros_(head.bias)
        nn.init.constant_(self.label_head[-1].bias, math.log(config.positive_share / (1 - config.positive_share)))

    def forward(self, batch: Batch, return_attention: bool = False, others: list[Tensor] | None = None) -> Output:
        """Predict score (B, C), logit (B, C) and profile (B, C, T).

        With `return_attention`, `attention` holds sequence (B, layer, head, T, T), fusion (B, C, T, head, 6: MODALITIES
        and the null key) and encoder (B, C, layer, head, T, T); the predictions are the same to within 1e-5.
        others: `other_tokens` of this batch, for who scores many sequences in one place and computes them once.
        """
        batch = self.readable(batch)
        b, c, t = batch.accessibility.shape
        matches, sequence, sequence_weights = self.sequence_encoder(batch.sequence, return_attention)
        modalities, observed = self.modality_tokens(batch, matches, sequence, others=others)
        query = torch.where(
            batch.accessibility_observed[..., None],
            self.accessibility_token(batch.accessibility[..., None]),
            self.mask_token,
        )
        fused, fusion_weights = self.fusion(
            (query + self.encoder.position).flatten(0, 1), [m.flatten(0, 1) for m in modalities], observed.flatten(0, 1)
        )  # fmt: skip
        tokens, encoder_weights = self.encoder(fused, return_attention)
        attention = None
        if return_attention:
            attention = {
                "sequence": sequence_weights,
                "fusion": fusion_weights.reshape(b, c, *fusion_weights.shape[1:]),
                "encoder": encoder_weights.reshape(b, c, *encoder_weights.shape[1:]),
            }
        return replace(self.heads(tokens.reshape(b, c, t, -1), batch), attention=attention)

    def readable(self, batch: Batch) -> Batch:
        """The batch without what the model may not see: what is not observed, and, by choice, the locus prior or part."""
        if not self.config.locus_prior:
            batch = replace(batch, prior_observed=torch.zeros_like(batch.prior_observed))
        batch = batch.without_unobserved()
        if not self.config.state_prior:
            batch = replace(batch, prior=torch.cat([batch.prior[..., :2], torch.zeros_like(batch.prior[..., 2:])], -1))
        return batch

    @torch.no_grad()
    def start_from_motifs(self, matrices: Sequence[tuple[str, Tensor]]) -> None:
        """Start one kernel of the scan at each given motif, (TF, probabilities (length, 4)), before training.

        Where the TF is also a metadata feature, its channel's gate starts at that feature: the pairing of motif and TF
        is known biology, and a dozen cell types are too few to find it anew. Everything stays trainable, and the
        kernels left over start at random. Raises `ChromaccError` for more motifs than kernels, and for k-mer tokens.
        """
        scan, width = self.sequence_encoder.scan, self.config.motif_kernel_bp
        if scan is None:
            raise ChromaccError('start_from_motifs: k-mer tokens have no kernels; it needs sequence_tokens="patch".')
        if len(matrices) > scan.out_channels:
            raise ChromaccError(f"start_from_motifs: {len(matrices)} motifs, but d_model={scan.out_channels} kernels.")
        for channel, (tf, matrix) in enumerate(matrices):
            odds = torch.log2((matrix.float() + 0.01) / 0.26)
            skip = max(0, len(odds) - width) // 2
            odds = odds[skip : skip + width].T  # (L, 4) -> (4, L), the centre of a motif longer than the kernel
            left = (width - odds.shape[1]) // 2
            scan.weight[channel] = 0
            scan.weight[channel, :, left : left + odds.shape[1]] = 0.3 * odds / odds.abs().max()
            if self.cell_gate is not None and tf in self.config.features:
                self.cell_gate.of_cell.weight[channel] *= 0.1
                self.cell_gate.of_cell.weight[channel, self.config.features.index(tf)] = 1.0

    def modality_tokens(
        self, batch: Batch, matches: Tensor, sequence: Tensor, gate_by_tracks: bool = True,
        others: list[Tensor] | None = None,
    ) -> tuple[list[Tensor], Tensor]:  # fmt: skip
        """Tokens of each of MODALITIES, (B, C, T, d) or (B, C, 1, d) for all places, and which are observed (B, C, 5).

        matches and sequence, each (B, T, d), come from the sequence encoder. gate_by_tracks: False keeps the histone and
        TF tracks out of the sequence's token, where a model without expression would gate it by them. others: the
        `other_tokens` of the batch, computed here where None.
        """
        others = self.other_tokens(batch) if others is None else others
        gated = sequence.new_zeros(*batch.prior_score.shape, 1, sequence.shape[-1])
        if self.cell_gate and (self.cell_gate.knows_cells or gate_by_tracks):
            signal = sum(others[:2]).mean(2)  # of a dataset without one of them, that token is 0
            gated = self.cell_gate(matches, batch.metadata, batch.metadata_observed, signal)
        return [sequence[:, None] + gated, *others], self.observed(batch)

    def other_tokens(self, batch: Batch) -> list[Tensor]:
        """Tokens of all MODALITIES but the sequence, of a `readable` batch: (B, C, T, d), or (B, C, 1, d) for all places."""
        b, c, t = batch.accessibility.shape
        absent = self.mask_token.new_zeros(b, c, 1, self.config.d_model)
        tokens = []
        for encoder, signal, seen in (
            (self.histone_encoder, batch.histone, batch.histone_observed),
            (self.tf_encoder, batch.tf, batch.tf_observed),
        ):
            tokens.append(encoder(signal.flatten(0, 1), seen.flatten(0, 1)).view(b, c, t, -1) if encoder else absent)
        cell = self.cell_token(batch.metadata)[:, :, None] if self.cell_token else absent
        prior = torch.cat([batch.prior, batch.prior_score[..., None, None].expand(b, c, t, 1)], -1)
        return [*tokens, cell, self.prior_token(prior)]

    @staticmethod
    def observed(batch: Batch) -> Tensor:
        """Which of MODALITIES a batch has anything of, bool (B, C, 5)."""
        known = batch.sequence.amin(1) < 4 if batch.sequence.dtype == torch.uint8 else batch.sequence.amax((1, 2)) > 0
        return torch.stack([
            known[:, None].expand_as(batch.prior_observed), batch.histone_observed.any(-1), batch.tf_observed.any(-1),
            batch.metadata_observed, batch.prior_observed,
        ], -1)  # fmt: skip

    def heads(self, tokens: Tensor, batch: Batch) -> Output:
        """Tokens (B, C, T, d) -> what they predict, on top of the locus prior of the batch.

        The logit has no gradient with respect to the score that it follows.
        """
        pooled = tokens.mean(2)  # (B, C, T, d) -> (B, C, d)
        known, centre = batch.prior_observed.to(tokens.dtype), self.config.score_mean
        away = (batch.prior_score - centre) * known
        departure = batch.prior[..., 2]  # (B, C, T)
        (slope_score, slope_profile), (by_score, by_profile) = self.prior_slope, self.departure_slope
        place = torch.where(batch.prior_observed[..., None], batch.prior[..., 0] - centre, 0.0)
        above = slope_score * away + by_score * departure.mean(2) + self.score_head(pooled).squeeze(-1)
        return Output(
            score=centre + above,
            logit=self.label_slope * above.detach() + self.label_head(pooled).squeeze(-1),
            profile=centre + slope_profile * place + by_profile * departure + self.profile_head(tokens).squeeze(-1),
            tokens=tokens,
        )
