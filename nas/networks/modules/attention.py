"""Attention units as torch modules: attention everywhere or in windows of the map, with and without a gate.

B batch, C channels, H W height and width, N = H * W tokens, R query reduction, V = m * C value channels
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.networks.layers import AttentionLayer
from nas.networks.modules.blocks import ConvNorm, PositionEncoding, Residual, feed_forward
from nas.networks.specs import AttentionSpec

__all__ = ["Attention", "AttentionUnit"]

# The paper moves windows in 16 slices of the channels. At 512 px one large reshape took 11.46 ms, the slices 4.0 ms.
WINDOW_CHUNKS = 16


class Attention(nn.Module):
    """Attention over the tokens of a map, without the output projection, (B, C, H, W) to (B, V, H, W).

    Applies softmax(q^T k / sqrt(d)) to the values. q and k have C/R channels, and d is C/R divided by the number of
    heads. `shma` takes values and gate from sigmoid(V x) and multiplies the result by the gate. This follows the
    released code, which also applies the sigmoid to the values, before attention. The paper's equation 3 applies it to
    the gate alone.

    Args:
        channels: C.
        spec: kind, query reduction, modulation and heads; its position encoding, expansion and window are not used.
    """

    def __init__(self, *, channels: int, spec: AttentionSpec) -> None:
        super().__init__()
        query, value = channels // spec.query_reduction, spec.value_channels(channels)
        self.kind: Literal["shma", "sha", "mha"] = spec.attention
        self.heads = spec.heads or 1
        self.temperature = (query // self.heads) ** -0.5
        self.query = ConvNorm(inputs=channels, outputs=query)
        self.key = ConvNorm(inputs=channels, outputs=query)
        self.value = ConvNorm(inputs=channels, outputs=2 * value if self.kind == "shma" else value)

    def forward(self, x: Tensor) -> Tensor:
        """Attend; with a gate, multiply the result by the gate."""
        query: Tensor = self.query(x)  # (B, C/R, H, W), like the key
        key: Tensor = self.key(x)
        value: Tensor = self.value(x)  # (B, V, H, W); 2V channels with a gate
        if self.kind == "shma":
            value, gate = value.sigmoid().chunk(2, dim=1)
            return self._attend(query, key, value) * gate
        return self._attend(query, key, value)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        size = value.shape[-2:]
        q, k, v = (x.flatten(2) for x in (query * self.temperature, key, value))  # (B, C/R | C/R | V, N)
        if self.kind == "mha":
            q, k, v = (torch.unflatten(x, 1, (self.heads, -1)) for x in (q, k, v))  # (B, heads, ..., N)
        weights = (q.transpose(-2, -1) @ k).softmax(dim=-1)  # (B, [heads,] N, N)
        attended = v @ weights.transpose(-2, -1)  # (B, [heads,] V/heads, N)
        if self.kind == "mha":
            attended = attended.flatten(1, 2)
        return torch.unflatten(attended, -1, size)  # (B, V, H, W)


class AttentionUnit(nn.Module):
    """Position encoding, attention and feed-forward, each with its residual.

    Maps (B, C, H, W) to itself. With windows, a unit that does not partition takes (windows * B, C, window, window),
    and a unit that does not merge returns this shape. The first dimension is ordered window by window along the rows
    of the map, and image by image inside each window. A map that the window does not divide is padded with zeros on the
    right and at the bottom, as in the authors' code.

    Args:
        layer: kind and sizes.
        layer_scale: initial scale of both branches; 0 leaves the scale out.
        drop_path: stochastic depth rate of both branches.
    """

    def __init__(self, *, layer: AttentionLayer, layer_scale: float = 0.0, drop_path: float = 0.0) -> None:
        super().__init__()
        spec, channels = layer.spec, layer.channels
        value = spec.value_channels(channels)
        self.partitions, self.merges, self.window = layer.partitions, layer.merges, spec.window
        self.size = (layer.height, layer.width)
        self.slice_channels = -(-channels // WINDOW_CHUNKS)
        self.position = (
            PositionEncoding(channels=channels, kernel=spec.position_kernel) if spec.position_kernel else nn.Identity()
        )
        self.attention = Residual(
            Attention(channels=channels, spec=spec),
            ConvNorm(inputs=value, outputs=channels),
            channels=channels,
            layer_scale=layer_scale,
            drop_path=drop_path,
        )
        self.feed_forward = Residual(
            *feed_forward(channels=channels, expansion=spec.expansion),
            channels=channels,
            layer_scale=layer_scale,
            drop_path=drop_path,
        )

    def forward(self, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Apply the three parts. A partition comes behind the position encoding; the others see only windows.

        Args:
            x: a map, or its windows.
            size: height and width of the map that the windows are of. By default those of the layer.
        """
        height, width = size or self.size
        x = self.position(x)  # The first unit of a run sees the whole map here, as in the authors' code.
        if not self.window:
            return self.feed_forward(self.attention(x))  # type: ignore[no-any-return]
        tiling = (-(-height // self.window), -(-width // self.window))
        below, right = tiling[0] * self.window - height, tiling[1] * self.window - width
        if self.partitions:
            if below or right:
                x = F.pad(x, (0, right, 0, below))
            x = torch.cat([self._partition(part, tiling) for part in self._slices(x)], dim=1)
        x = self.feed_forward(self.attention(x))
        if self.merges:
            x = torch.cat([self._merge(part, tiling) for part in self._slices(x)], dim=1)
            if below or right:
                x = x[..., :height, :width]
        return x

    def _slices(self, x: Tensor) -> tuple[Tensor, ...]:
        # Not chunk(16): for eight channels it gives eight slices, but the older ONNX exporter writes sixteen.
        return torch.split(x, self.slice_channels, dim=1)

    # Images and channels share one dimension, which leaves five dimensions. coremltools turns one transpose of six
    # dimensions into six transposes.

    def _partition(self, x: Tensor, tiling: tuple[int, int]) -> Tensor:
        rows, columns = tiling
        tiles = torch.unflatten(x.flatten(0, 1), 2, (columns, self.window))
        tiles = torch.unflatten(tiles, 1, (rows, self.window))  # (B * C, rows, w, columns, w)
        tiles = tiles.permute(1, 3, 0, 2, 4).flatten(0, 2)  # (rows * columns * B * C, w, w)
        return torch.unflatten(tiles, 0, (-1, x.shape[1]))

    def _merge(self, x: Tensor, tiling: tuple[int, int]) -> Tensor:
        tiles = torch.unflatten(x.flatten(0, 1), 0, (*tiling, -1))  # (rows, columns, B * C, w, w)
        tiles = tiles.permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)  # (B * C, H, W)
        return torch.unflatten(tiles, 0, (-1, x.shape[1]))
