"""Networks of a space as rows of whole numbers, so that thousands are drawn and added up in one step. No torch.

A column is a parameter of the space, under the name that `SearchSpace.sample` gives it; a number is the index of the
chosen option. Equal networks have equal rows: what a network has no use for, such as the kernel of a stage without
convolution blocks, is 0, and of placements that give the same order of blocks the first stands for all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from nas.networks.architecture import Architecture, stage_layers, stage_size
from nas.networks.choices import StageChoices, arrange
from nas.networks.layers import DownsampleLayer, HeadLayer, Layer, StemLayer
from nas.networks.space import SearchSpace
from nas.networks.specs import AttentionSpec, BlockSpec, ConvSpec, StageSpec
from nas.networks.timm import COMMON
from nas.networks.windows import Tiling, tilings

__all__ = ["Encoding", "LayerMaxima", "LayerSums", "Rows"]

T = TypeVar("T")
Rows = npt.NDArray[np.int16]  # (N, number of columns)
Floats = npt.NDArray[np.float64]

_NETWORK = ("resolution", "stem.kernel", "stem.expansion", "downsample.kernel")
_CONV = ("conv.kernel", "conv.expansion")
_UNIT = (
    "attention.kind",
    "attention.head_channels",
    "attention.query_reduction",
    "attention.modulation",
    "attention.expansion",
    "attention.position_kernel",
)
_STAGE = ("channels", "conv.depth", "attention.depth", "placement", *_CONV, *_UNIT)
_OF_CONVS, _OF_UNITS = slice(4, 4 + len(_CONV)), slice(4 + len(_CONV), len(_STAGE))
_NORMALIZED = ("conv.depth", "attention.depth", "placement", "attention.kind", "attention.head_channels")


class Encoding:
    """The rows of a space.

    Args:
        space: the space.

    Attributes:
        columns: names of the parameters.
        options: of each column, in the order that the numbers of a row count.
        sizes: number of options of each column.

    Examples:
        >>> encoding = Encoding(SearchSpace.find("tiny"))
        >>> rows = encoding.draw(1000, np.random.default_rng(0))
        >>> encoding.decode(rows[0]) in encoding.space
        True
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        options: dict[str, Sequence[Any]] = {
            "resolution": space.resolution,
            "stem.kernel": space.stem.kernel,
            "stem.expansion": space.stem.expansion,
            "downsample.kernel": space.downsample.kernel,
        }
        for index, stage in enumerate(space.stages):
            options |= {f"stages[{index}].{name}": found for name, found in _options(stage).items()}
        self.columns = tuple(options)
        self.options = tuple(options.values())
        self.sizes = np.asarray([len(found) for found in self.options])
        self._column = {name: column for column, name in enumerate(self.columns)}

    def at(self, name: str, stage: int | None = None) -> int:
        """The column of a parameter of the network, or with `stage` of one of that stage."""
        return self._column[name if stage is None else f"stages[{stage}].{name}"]

    def of_stage(self, stage: int) -> slice:
        """The columns of a stage."""
        start = len(_NETWORK) + stage * len(_STAGE)
        return slice(start, start + len(_STAGE))

    def values(self, rows: Rows, name: str, stage: int | None = None) -> Floats:
        """The chosen numbers of a parameter, (N,)."""
        column = self.at(name, stage)
        return np.asarray(self.options[column], dtype=np.float64)[rows[:, column]]

    def encode(self, networks: Sequence[Architecture]) -> Rows:
        """The rows of networks of the space."""
        rows = np.zeros((len(networks), len(self.columns)), dtype=np.int16)
        for row, network in zip(rows, networks, strict=True):
            for name, answer in self.space.choices(network).items():
                if answer is not None and name in self._column:
                    column = self._column[name]
                    row[column] = self.options[column].index(answer)
        return self.canonical(rows)

    def decode(self, row: npt.NDArray[np.int16]) -> Architecture:
        """The network of a row, in about half a millisecond."""

        def choose(name: str, options: Sequence[T]) -> T:
            column = self._column[name.removesuffix("_without_conv")]
            return options[options.index(self.options[column][row[column]])]

        return self.space.sample(choose)

    def draw(self, number: int, random: np.random.Generator) -> Rows:
        """Random rows; every option of a parameter is as likely as any other."""
        return self.canonical(random.integers(0, self.sizes, (number, len(self.sizes)), dtype=np.int16))

    def canonical(self, rows: Rows) -> Rows:
        """The rows, changed in place so that equal networks are equal and no stage is empty."""
        for index, stage in enumerate(self.space.stages):
            own = rows[:, self.of_stage(index)]  # a view
            convs, units, placement, kind, heads = map(_STAGE.index, _NORMALIZED)
            empty = ~self._orders[index].filled[own[:, convs], own[:, units]]
            if empty.any():
                depths = stage.conv.depth if any(stage.conv.depth) else stage.attention.depth
                column = convs if any(stage.conv.depth) else units
                own[empty, column] = next(at for at, depth in enumerate(depths) if depth)
            without_convs = np.asarray(stage.conv.depth)[own[:, convs]] == 0
            without_units = np.asarray(stage.attention.depth)[own[:, units]] == 0
            own[without_convs, _OF_CONVS] = 0
            own[without_units, _OF_UNITS] = 0
            several_heads = np.asarray([kind == "mha" for kind in stage.attention.kind])
            own[~several_heads[own[:, kind]], heads] = 0
            own[:, placement] = self._orders[index].first[own[:, convs], own[:, units], own[:, placement]]
        if self.space.must_fit:
            self._agree(rows)
        return rows

    def _agree(self, rows: Rows) -> None:
        """Change rows as `SearchSpace.sample` does for a tool: what all stages share, and widths that differ."""
        stages = range(len(self.space.stages))
        for name in COMMON:
            columns = [self.at(name, stage) for stage in stages]
            depth = f"{name.partition('.')[0]}.depth"
            has = [self.values(rows, depth, stage) > 0 for stage in stages]
            shared = np.zeros(len(rows), dtype=rows.dtype)
            for column, own in reversed(list(zip(columns, has, strict=True))):  # the first one that has it decides
                shared[own] = rows[own, column]
            for column, own in zip(columns, has, strict=True):
                rows[own, column] = shared[own]
        for stage in stages[1:]:
            column = self.at("channels", stage)
            same = self.values(rows, "channels", stage) == self.values(rows, "channels", stage - 1)
            rows[same, column] = (rows[same, column] + 1) % self.sizes[column]

    def place(self, rows: Rows, stage: int) -> Floats:
        """Mean position of the attention units of a stage, from 0 (first) to 1 (last); the middle without any, (N,)."""
        convs, units, placement = (self.at(name, stage) for name in ("conv.depth", "attention.depth", "placement"))
        return self._orders[stage].place[rows[:, convs], rows[:, units], rows[:, placement]]

    def sums(self, cost: Callable[[Layer, int], float | Floats]) -> LayerSums:
        """What adds up a cost over the layers of each row, a million rows a second.

        Args:
            cost: of a layer in a network of this resolution, a number or several, (K,); called once for each.
        """
        return LayerSums(self._terms(cost))

    def maxima(self, cost: Callable[[Layer, int], float | Floats]) -> LayerMaxima:
        """What finds the greatest cost of any layer of each row, as fast as `sums`.

        Args:
            cost: as for `sums`; not negative.
        """
        return LayerMaxima(self._terms(cost))

    def _terms(self, cost: Callable[[Layer, int], float | Floats]) -> list[_Term]:
        known: dict[tuple[Layer, int], float | Floats] = {}

        def total(layers: Iterable[Layer], resolution: int) -> float | Floats:
            whole: float | Floats = 0.0
            for layer in layers:
                if (layer, resolution) not in known:
                    known[layer, resolution] = cost(layer, resolution)
                whole = whole + known[layer, resolution]
            return whole

        space = self.space
        terms: list[_Term] = []

        def add(
            columns: Sequence[int],
            layers: Callable[..., Iterable[Layer]],
            times: Sequence[int] = (),
            depths: Floats | None = None,
        ) -> None:
            options = [self.options[column] for column in columns]
            chosen = list(product(*options))
            each = [np.asarray(total(layers(*one), one[0])) for one in chosen]
            # Where there is no such layer, there is nothing to add, to each of the sums.
            costs = np.stack(np.broadcast_arrays(*each)).reshape(*map(len, options), *max(one.shape for one in each))
            terms.append(_Term(columns=tuple(columns), costs=costs, times=tuple(times), depths=depths))

        size, classes = self.at("resolution"), space.num_classes
        width = [self.at("channels", stage) for stage in range(len(space.stages))]
        add((size, self.at("stem.kernel"), self.at("stem.expansion"), width[0]), _stem)
        for index, stage in enumerate(space.stages):
            if index:
                add((size, self.at("downsample.kernel"), *width[index - 1 : index + 1]), _downsample(index))
            if any(stage.conv.depth):  # Else its kernels are no layers of the space, and a table need not have them.
                add(
                    (size, width[index], *(self.at(name, index) for name in _CONV)),
                    _convs(index),
                    [self.at("conv.depth", index)],
                    np.asarray(stage.conv.depth, dtype=np.float64),
                )
            for tiling, depths in self._orders[index].tilings.items():
                add(
                    (size, width[index], *(self.at(name, index) for name in _UNIT)),
                    _units(index, stage.attention.head_channels[0], tiling),
                    [self.at(name, index) for name in ("conv.depth", "attention.depth", "placement")],
                    depths,
                )
        add((size, width[-1]), _head(len(space.stages) - 1, classes))
        return terms

    @cached_property
    def _orders(self) -> list[_Orders]:
        largest = max(self.space.resolution)
        return [_Orders.of(stage, stage_size(largest, index)) for index, stage in enumerate(self.space.stages)]


class LayerSums:
    """Adds up a cost over the layers of networks, from tables over few columns each."""

    def __init__(self, terms: Sequence[_Term]) -> None:
        self._terms = terms

    def __call__(self, rows: Rows) -> Floats:
        """The sums of each row, (N,) or (N, K)."""
        total: Floats = np.zeros(())
        for term in self._terms:
            costs, depths = term.of(rows)
            total = total + (costs if depths is None else depths * costs)
        return total


class LayerMaxima:
    """Finds the greatest cost of any layer of networks, from tables over few columns each."""

    def __init__(self, terms: Sequence[_Term]) -> None:
        self._terms = terms

    def __call__(self, rows: Rows) -> Floats:
        """The maximum of each row, (N,) or (N, K)."""
        greatest: Floats = np.zeros(())
        for term in self._terms:
            greatest = np.maximum(greatest, term.of(rows)[0])
        return greatest


@dataclass(frozen=True, slots=True, kw_only=True)
class _Term:
    """The cost of some layers of a network by its columns, and how often it has them by the columns `times`."""

    columns: tuple[int, ...]
    costs: Floats
    times: tuple[int, ...]
    depths: Floats | None

    def of(self, rows: Rows) -> tuple[Floats, Floats | None]:
        """Cost of one such layer in each row, 0 where it has none, (N,) or (N, K); how many it has, unless always one.

        The number has the shape (N,) or (N, 1).
        """
        costs = self.costs[tuple(rows[:, column] for column in self.columns)]
        if self.depths is None:
            return costs, None
        depths = self.depths[tuple(rows[:, column] for column in self.times)].reshape(-1, *[1] * (costs.ndim - 1))
        # An infinite cost of a layer that is not there counts nothing.
        return np.where(depths > 0, costs, 0.0), depths


@dataclass(frozen=True, slots=True, kw_only=True)
class _Orders:
    """What the two depths and the placement of a stage, as indices, lead to.

    Attributes:
        filled: whether the stage has a block at all, (C, A).
        first: the first placement with the same order of blocks, (C, A, P).
        place: mean position of the attention units, from 0 to 1, (C, A, P).
        tilings: how many attention units have which tiling on the largest map, each (C, A, P).
    """

    filled: npt.NDArray[np.bool_]
    first: Rows
    place: Floats
    tilings: dict[Tiling, Floats]

    @classmethod
    def of(cls, stage: StageChoices, size: int) -> _Orders:
        shape = len(stage.conv.depth), len(stage.attention.depth), len(stage.placement)
        filled, first, place = np.zeros(shape[:2], dtype=bool), np.zeros(shape, dtype=np.int16), np.full(shape, 0.5)
        tiled: dict[Tiling, Floats] = {}
        for i, convs in enumerate(stage.conv.depth):
            for j, units in enumerate(stage.attention.depth):
                filled[i, j] = convs + units > 0
                orders = [arrange(convs, units, placement) for placement in stage.placement]
                first[i, j] = [orders.index(order) for order in orders]
                for k, order in enumerate(orders):
                    for tiling, number in tilings(order, stage.attention.window, size).items():
                        tiled.setdefault(tiling, np.zeros(shape))[i, j, k] = number
                if units:
                    last = max(1, convs + units - 1)
                    place[i, j] = [np.mean([k for k, letter in enumerate(o) if letter == "A"]) / last for o in orders]
        return cls(filled=filled, first=first, place=place, tilings=tiled)


def _options(stage: StageChoices) -> dict[str, Sequence[Any]]:
    conv, unit = stage.conv, stage.attention
    return {
        "channels": stage.channels,
        "conv.depth": conv.depth,
        "attention.depth": unit.depth,
        "placement": stage.placement,
        "conv.kernel": conv.kernel,
        "conv.expansion": conv.expansion,
        "attention.kind": unit.kind,
        "attention.head_channels": unit.head_channels,
        "attention.query_reduction": unit.query_reduction,
        "attention.modulation": unit.modulation,
        "attention.expansion": unit.expansion,
        "attention.position_kernel": unit.position_kernel,
    }


def _stem(resolution: int, kernel: int, expansion: int, channels: int) -> Iterable[Layer]:
    yield StemLayer(channels=channels, kernel=kernel, expansion=expansion, height=resolution, width=resolution)


def _downsample(stage: int) -> Callable[..., Iterable[Layer]]:
    def layers(resolution: int, kernel: int, in_channels: int, channels: int) -> Iterable[Layer]:
        size = stage_size(resolution, stage - 1)
        yield DownsampleLayer(in_channels=in_channels, channels=channels, kernel=kernel, height=size, width=size)

    return layers


def _head(stage: int, num_classes: int) -> Callable[..., Iterable[Layer]]:
    def layers(resolution: int, channels: int) -> Iterable[Layer]:
        size = stage_size(resolution, stage)
        yield HeadLayer(channels=channels, num_classes=num_classes, height=size, width=size)

    return layers


def _convs(stage: int) -> Callable[..., Iterable[Layer]]:
    def layers(resolution: int, channels: int, kernel: int, expansion: int) -> Iterable[Layer]:
        return _alone(ConvSpec(kernel=kernel, expansion=expansion), channels, stage_size(resolution, stage))

    return layers


def _units(stage: int, first_head_channels: int, tiling: Tiling) -> Callable[..., Iterable[Layer]]:
    """The unit with a tiling where the map is larger than the window, and without any where it is not."""

    def layers(
        resolution: int,
        channels: int,
        kind: str,
        head_channels: int,
        query_reduction: int,
        modulation: float,
        expansion: int,
        position_kernel: int,
    ) -> Iterable[Layer]:
        if kind != "mha" and head_channels != first_head_channels:
            return ()  # no row has it
        unit = AttentionSpec.model_validate(
            {
                "attention": kind,
                "query_reduction": query_reduction,
                "modulation": modulation,
                "expansion": expansion,
                "position_kernel": position_kernel,
                "heads": channels // head_channels if kind == "mha" else None,
            }
        )
        size = stage_size(resolution, stage)
        return ((tiling if tiling.window < size else Tiling()).layer(unit, channels=channels, size=size),)

    return layers


def _alone(block: BlockSpec, channels: int, size: int) -> Iterable[Layer]:
    return stage_layers(StageSpec(channels=channels, blocks=(block,)), size)
