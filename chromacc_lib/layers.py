"""What the encoders are built of: attention that shows its weights, pre-norm blocks, cheap dropout, shared norms."""

from __future__ import annotations

import math

import torch
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["Attention", "Block", "ByteDropout", "SharedBatchNorm", "TransformerStack"]

LANES = 16  # float32 values in the longest vector registers of CPUs


class ByteDropout(nn.Module):
    """Dropout whose mask comes from random bytes: far cheaper than those of `F.dropout` on CPUs, p rounded to 1/256."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.cut = round(p * 256)

    def forward(self, x: Tensor) -> Tensor:
        """Zero each value with probability cut/256 and rescale the rest, in training mode only."""
        if not self.training or self.cut == 0:
            return x
        words = torch.randint(-(2**63), 2**63 - 1, ((x.numel() + 7) // 8,), device=x.device)
        drawn = words.view(torch.uint8)[: x.numel()].view(x.shape)
        keep = torch.ge(drawn, self.cut, out=torch.empty_like(x, requires_grad=False))  # 0 or 1, in x's own dtype
        return x * keep.mul_(256 / (256 - self.cut))


class Attention(nn.Module):
    """Multi-head self-attention with one projection; the weights on request, which changes no output.

    Fused on GPUs in half precision. In float32 it is written out: on GPUs the gradients of the fused kernel are added up in
    another order each time, so that a seed would not give its weights again; on CPUs, with a window's few tokens, that
    takes half the time of the fused kernel.
    Keys are filled up, masked, to LANES: a softmax over rows of whole vector registers takes a tenth of the time of one
    over 15 values.
    """

    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(d_model, 3 * d_model)
        self.out, self.softmax = nn.Linear(d_model, d_model), nn.Softmax(-1)

    def forward(self, x: Tensor, return_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """x (N, T, d) -> (N, T, d), and weights (N, heads, T, T) or None."""
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)  # (N, H, T, d/H)
        if x.is_cuda and q.dtype != torch.float32 and not return_weights:
            attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, d)
            return self.out(attended), None
        filled = -t % LANES
        k, v = F.pad(k, (0, 0, 0, filled)), F.pad(v, (0, 0, 0, filled))
        mask = F.pad(x.new_zeros(t), (0, filled), value=float("-inf"))
        weights = self.softmax(q @ k.transpose(-2, -1) / math.sqrt(d // self.heads) + mask)  # (N, H, T, T + filled)
        attended = (weights @ v).transpose(1, 2).reshape(n, t, d)  # (N, H, T, d/H) -> (N, T, d)
        return self.out(attended), weights[..., :t] if return_weights else None


class Block(nn.Module):
    """Pre-norm transformer layer; residual branches start scaled down by depth so that deep stacks train."""

    def __init__(self, d_model: int, heads: int, mlp_ratio: int, dropout: float, depth: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.attention = Attention(d_model, heads)
        self.up, self.activation = nn.Linear(d_model, mlp_ratio * d_model), nn.GELU()
        self.down = nn.Linear(mlp_ratio * d_model, d_model)
        self.dropout = ByteDropout(dropout)
        for branch in (self.attention.out, self.down):
            nn.init.normal_(branch.weight, std=0.7 / math.sqrt(branch.in_features) / math.sqrt(2 * depth))
            nn.init.zeros_(branch.bias)

    def forward(self, x: Tensor, return_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """x (N, T, d) -> (N, T, d), and attention weights or None."""
        attended, weights = self.attention(self.norm1(x), return_weights)
        x = x + self.dropout(attended)
        return x + self.dropout(self.down(self.activation(self.up(self.norm2(x))))), weights


class TransformerStack(nn.Module):
    """Blocks in sequence with learned positions added first; returns tokens and, on request, all attention maps."""

    def __init__(self, n_tokens: int, d_model: int, layers: int, heads: int, mlp_ratio: int, dropout: float) -> None:
        super().__init__()
        self.position = nn.Parameter(0.02 * torch.randn(n_tokens, d_model))
        self.blocks = nn.ModuleList(Block(d_model, heads, mlp_ratio, dropout, layers) for _ in range(layers))
        self.norm = nn.LayerNorm(d_model)

    def forward(self, x: Tensor, return_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """x (N, T, d) -> (N, T, d), and weights (N, layer, head, T, T) or None."""
        x = x + self.position
        maps = []
        for block in self.blocks:
            x, weights = block(x, return_weights)
            maps.append(weights)
        return self.norm(x), torch.stack(maps, 1) if return_weights else None


class SharedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over the batch of all processes that train together, on CPUs too; alone, it is BatchNorm1d.

    (torch's SyncBatchNorm is for GPUs only.)
    """

    def forward(self, x: Tensor) -> Tensor:
        """x (N, d, T) -> (N, d, T)."""
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not self.training or not distributed or torch.distributed.get_world_size() == 1:
            return super().forward(x)
        dtype, x = x.dtype, x.float()  # a count and a sum of squares need all their digits
        sums = torch.stack([x.sum((0, 2)), (x * x).sum((0, 2)), torch.full_like(x[0, :, 0], x.shape[0] * x.shape[2])])
        total, square, n = torch.distributed.nn.functional.all_reduce(sums)  # gradients flow through it
        mean = total / n
        variance = (square / n - mean * mean).clamp(min=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * n / (n - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight / (variance + self.eps).sqrt()
        return (x * scale[:, None] + (self.bias - mean * scale)[:, None]).to(dtype)
