"""Which networks are allowed: a space from search_spaces/*.toml, its networks, their number and layers. No torch."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import product
from math import prod
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, Protocol, TypeVar

from pydantic import Field, ValidationError

from nas import catalog
from nas.errors import InputError, visible
from nas.files import digest_of, read_text
from nas.networks.architecture import Architecture, stage_layers, stage_size
from nas.networks.choices import NetworkChoices, ReferenceChoices, StageChoices, Wholes, arrange
from nas.networks.layers import AttentionLayer, ConvLayer, DownsampleLayer, HeadLayer, Layer, StemLayer
from nas.networks.specs import AttentionSpec, ConvSpec, Count, DownsampleSpec, StageSpec, StemSpec

__all__ = ["Choose", "SearchSpace", "find_network", "random_choice"]

T = TypeVar("T")
_LONGEST_TEXT, _LONGEST_LINE = 2**18, 10_000  # characters; the time of tomllib grows with the square of a line
Block = ConvSpec | AttentionSpec


class Choose(Protocol):
    """Picks one of several options for a named parameter, as an Optuna trial or a random generator does."""

    def __call__(self, name: str, options: Sequence[T]) -> T:
        """One of `options`; `name` is unique within a network and means the same in every network."""
        ...


def random_choice(seed: int) -> Choose:
    """A `Choose` that draws every option with equal probability."""
    generator = random.Random(seed)

    def choose(name: str, options: Sequence[T]) -> T:  # noqa: ARG001 - the draw does not depend on the name
        return generator.choice(options)

    return choose


class SearchSpace(NetworkChoices):
    """A search space, read from a TOML file; search_spaces/README.md documents every field.

    Examples:
        >>> space = SearchSpace.find("tiny")
        >>> network = space.sample(random_choice(seed=0))
        >>> network in space
        True
    """

    schema_version: Annotated[Literal[1], Field(alias="schema")] = 1
    description: str = ""
    resolution: Wholes = (224,)
    num_classes: Count = 1000
    reference: dict[str, ReferenceChoices] = Field(default_factory=dict)

    @classmethod
    def find(cls, name: str) -> SearchSpace:
        """The space that `name` refers to: a path, or a file of the search_spaces folders.

        Raises:
            InputError: there is no such space, or the file breaks a rule; the message names the place in the file.
        """
        return cls.load(catalog.find_file("search space", "search_spaces", ".toml", name))

    @classmethod
    def load(cls, path: Path) -> SearchSpace:
        """Read a space file and check every option in it, references included.

        Raises:
            InputError: the file is unreadable, is not TOML, or has an unknown key or a value that breaks a rule.
        """
        text = read_text(path)
        if len(text) > _LONGEST_TEXT or any(len(line) > _LONGEST_LINE for line in text.splitlines()):
            raise InputError(
                f"{path}: a search space is a text of {_LONGEST_TEXT:,} characters at most, {_LONGEST_LINE:,} a line"
            )
        try:
            data = tomllib.loads(text)
        except RecursionError as error:
            raise InputError(f"{path}: not valid TOML: nested too deep") from error
        except ValueError as error:  # Broken TOML, or a number of thousands of digits.
            raise InputError(f"{path}: not valid TOML: {visible(str(error), limit=200)}") from error
        try:
            space = cls.model_validate(data)
        except ValidationError as error:
            raise InputError.from_validation(str(path), error) from error
        space._check_options(str(path))
        return space

    @cached_property
    def references(self) -> dict[str, Architecture]:
        """The known networks of the file, at the first resolution of the space."""
        return {name: self._as_space(reference).sample(_no_choice) for name, reference in self.reference.items()}

    @property
    def digest(self) -> str:
        """Hash of the content: equal spaces have equal digests."""
        return digest_of(self.model_dump_json())

    def sample(self, choose: Choose) -> Architecture:
        """One network of the space, from the answers of `choose`.

        `choose` is not asked for a parameter with one option, or for a parameter that does not apply.
        """

        def ask(name: str, options: Sequence[T]) -> T:
            return options[0] if len(options) == 1 else choose(name, options)

        return Architecture(
            resolution=ask("resolution", self.resolution),
            num_classes=self.num_classes,
            stem=StemSpec(
                kernel=ask("stem.kernel", self.stem.kernel), expansion=ask("stem.expansion", self.stem.expansion)
            ),
            downsample=DownsampleSpec(kernel=ask("downsample.kernel", self.downsample.kernel)),
            layer_scale=self.layer_scale,
            stages=tuple(_sample_stage(f"stages[{index}]", stage, ask) for index, stage in enumerate(self.stages)),
        )

    def choices(self, architecture: Architecture) -> dict[str, object]:
        """The answers, by parameter name, with which `sample` returns this network.

        Args:
            architecture: a network of the space.
        """
        answers: dict[str, object] = {
            "resolution": architecture.resolution,
            "stem.kernel": architecture.stem.kernel,
            "stem.expansion": architecture.stem.expansion,
            "downsample.kernel": architecture.downsample.kernel,
        }
        for index, (choices, stage) in enumerate(zip(self.stages, architecture.stages, strict=True)):
            for name, answer in _stage_choices(choices, stage).items():
                answers[f"stages[{index}].{name}"] = answer
        return answers

    def __contains__(self, architecture: object) -> bool:
        """Whether the space allows this network."""
        return (
            isinstance(architecture, Architecture)
            and architecture.layer_scale == self.layer_scale
            and architecture.resolution in self.resolution
            and architecture.num_classes == self.num_classes
            and architecture.stem.kernel in self.stem.kernel
            and architecture.stem.expansion in self.stem.expansion
            and architecture.downsample.kernel in self.downsample.kernel
            and all(map(_allows, self.stages, architecture.stages))
        )

    def count(self) -> int:
        """Number of distinct networks, exactly."""
        common = (self.resolution, self.stem.kernel, self.stem.expansion, self.downsample.kernel)
        return prod(len(options) for options in common) * prod(stage.count() for stage in self.stages)

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every distinct layer that a network of the space can have."""
        found: dict[Layer, None] = {}
        for resolution in self.resolution:
            for index, stage in enumerate(self.stages):
                for spec in _stages_of_one_block(stage):
                    found.update(dict.fromkeys(stage_layers(spec, stage_size(resolution, index))))
            for widths in product(*(stage.channels for stage in self.stages)):
                smallest = [
                    next(_stages_of_one_block(stage, (width,)))
                    for stage, width in zip(self.stages, widths, strict=True)
                ]
                for network in self._networks(resolution, smallest):
                    found.update(dict.fromkeys(network.layers()))
        order = (StemLayer, ConvLayer, AttentionLayer, DownsampleLayer, HeadLayer)
        return tuple(sorted(found, key=lambda layer: (order.index(type(layer)), -layer.height, layer.key)))

    def extreme(
        self,
        cost_ms: Callable[[Layer], float],
        *,
        dearest: bool = False,
        combine: Callable[[Iterable[float]], float] = sum,
    ) -> Architecture:
        """The cheapest (or most expensive) network of the space.

        The result is exact where the cost of a network is the sum over its layers, or with `combine` their maximum.

        Args:
            cost_ms: cost of a layer; called once for each layer.
            dearest: return the most expensive network instead.
            combine: `sum` or `max`, makes the cost of a network from those of its layers.
        """
        sign = -1.0 if dearest else 1.0
        costs = {layer: cost_ms(layer) for layer in self.layers}

        def total(layers: Iterable[Layer]) -> float:
            return sign * combine(costs[layer] for layer in layers)

        best: dict[tuple[int, int, int], StageSpec] = {}
        for resolution in self.resolution:
            for index, stage in enumerate(self.stages):
                size = stage_size(resolution, index)
                for channels in stage.channels:
                    # Block costs add up, or the greatest counts: the best block of a kind is the best alone.
                    alone = sorted(
                        _stages_of_one_block(stage, (channels,)), key=lambda spec: total(stage_layers(spec, size))
                    )
                    block = {type(spec.blocks[0]): spec.blocks[0] for spec in reversed(alone)}
                    stages = [
                        StageSpec(channels=channels, blocks=tuple(block[_KINDS[letter]] for letter in order))
                        for order in {"".join(sorted(order)): order for order in stage.orders()}.values()
                    ]
                    best[resolution, index, channels] = min(stages, key=lambda spec: total(stage_layers(spec, size)))
        return min(
            (
                network
                for resolution in self.resolution
                for widths in product(*(stage.channels for stage in self.stages))
                for network in self._networks(
                    resolution, [best[resolution, i, width] for i, width in enumerate(widths)]
                )
            ),
            key=lambda network: total(network.layers()),
        )

    def _networks(self, resolution: int, stages: Sequence[StageSpec]) -> Iterator[Architecture]:
        """The networks with these stages, one for each choice of stem and downsampling."""
        for kernel, expansion, down in product(self.stem.kernel, self.stem.expansion, self.downsample.kernel):
            yield Architecture(
                resolution=resolution,
                num_classes=self.num_classes,
                stem=StemSpec(kernel=kernel, expansion=expansion),
                downsample=DownsampleSpec(kernel=down),
                layer_scale=self.layer_scale,
                stages=tuple(stages),
            )

    def _as_space(self, reference: ReferenceChoices) -> SearchSpace:
        """A reference as a search space; a valid reference is a space of one network."""
        return SearchSpace(
            resolution=self.resolution[:1],
            num_classes=self.num_classes,
            stem=reference.stem,
            downsample=reference.downsample,
            layer_scale=reference.layer_scale,
            stages=reference.stages,
        )

    def _check_options(self, where: str) -> None:
        """Build every part that the options allow, so that a wrong option fails now and not during a search."""
        # Before any part is built: some typing errors make millions.
        if problem := self.too_large(resolutions=len(self.resolution)):
            raise InputError(f"{where}: {problem}")
        for index, stage in enumerate(self.stages):
            try:
                list(_stages_of_one_block(stage))
            except ValidationError as error:
                raise InputError.from_validation(f"{where}: stages[{index}]", error) from error
        try:
            list(self.layers)
        except ValidationError as error:
            raise InputError.from_validation(where, error) from error
        for name, reference in self.reference.items():
            alone = self._as_space(reference)
            if alone.count() != 1:
                raise InputError(f"{where}: reference.{name}: every option of a reference takes one value")
            alone._check_options(f"{where}: reference.{name}")


def find_network(name: str, *, stdin: BinaryIO | None = None) -> tuple[str, Architecture]:
    """The network that `name` refers to, with a name to show for it.

    Args:
        name: a reference of any space (`iformer_m`), an architecture file, or `-` for an architecture on `stdin`.
        stdin: read to its end if `name` is `-`; without it, `-` is a name like any other.
    Raises:
        InputError: there is no such reference or file, or the content is not an architecture.
    """
    if name == "-" and stdin is not None:
        return "stdin", Architecture.from_json(stdin.read(), where="stdin")
    path = Path(name)
    if path.suffix == ".json" or len(path.parts) > 1 or path.is_file():
        return path.stem, Architecture.load(path)
    references: dict[str, Architecture] = {}
    broken: InputError | None = None
    for space in catalog.files("search_spaces", ".toml").values():
        try:
            references |= SearchSpace.load(space).references
        except InputError as error:  # Matters only if no other space has the name.
            broken = broken or error
        if name in references:
            return name, references[name]
    raise broken or catalog.unknown_name("network", name, references)


def _no_choice(name: str, options: Sequence[T]) -> T:
    raise AssertionError(f"{name} should have had one option, has {len(options)}")


_KINDS: dict[str, type[Block]] = {"C": ConvSpec, "A": AttentionSpec}


def _stages_of_one_block(stage: StageChoices, widths: Sequence[int] | None = None) -> Iterator[StageSpec]:
    """The stage with each of its possible blocks alone; the layers of every longer stage are among their layers."""
    for channels in widths or stage.channels:
        for block in (*stage.conv.specs(), *stage.attention.specs(channels)):
            yield StageSpec(channels=channels, blocks=(block,))


def _sample_stage(name: str, stage: StageChoices, choose: Choose) -> StageSpec:
    channels = choose(f"{name}.channels", stage.channels)
    convs = choose(f"{name}.conv.depth", stage.conv.depth)
    depths = stage.attention.depth
    if convs:
        attentions = choose(f"{name}.attention.depth", depths)
    else:  # The stage must not be empty, so the options differ and the parameter has its own name.
        attentions = choose(f"{name}.attention.depth_without_conv", tuple(depth for depth in depths if depth))
    placement = stage.placement[0]
    if convs and attentions:
        placement = choose(f"{name}.placement", stage.placement)
    blocks: dict[str, Block] = {}
    if convs:
        blocks["C"] = ConvSpec(
            kernel=choose(f"{name}.conv.kernel", stage.conv.kernel),
            expansion=choose(f"{name}.conv.expansion", stage.conv.expansion),
        )
    if attentions:
        options = stage.attention
        kind = choose(f"{name}.attention.kind", options.kind)
        heads = channels // choose(f"{name}.attention.head_channels", options.head_channels) if kind == "mha" else None
        blocks["A"] = AttentionSpec(
            attention=kind,
            query_reduction=choose(f"{name}.attention.query_reduction", options.query_reduction),
            modulation=choose(f"{name}.attention.modulation", options.modulation),
            expansion=choose(f"{name}.attention.expansion", options.expansion),
            position_kernel=choose(f"{name}.attention.position_kernel", options.position_kernel),
            heads=heads,
        )
    return StageSpec(
        channels=channels, blocks=tuple(blocks[letter] for letter in arrange(convs, attentions, placement))
    )


def _stage_choices(choices: StageChoices, stage: StageSpec) -> dict[str, object]:
    """The answers with which `_sample_stage` returns this stage, and some that it does not ask for."""
    order = _order(stage)
    convs, attentions = order.count("C"), order.count("A")
    answers: dict[str, object] = {
        "channels": stage.channels,
        "conv.depth": convs,
        "attention.depth": attentions,
        "attention.depth_without_conv": attentions,
        "placement": next(p for p in choices.placement if arrange(convs, attentions, p) == order),
    }
    for block in set(stage.blocks):
        if isinstance(block, ConvSpec):
            answers |= {"conv.kernel": block.kernel, "conv.expansion": block.expansion}
        else:
            answers |= {
                "attention.kind": block.attention,
                "attention.head_channels": stage.channels // block.heads if block.heads else None,
                "attention.query_reduction": block.query_reduction,
                "attention.modulation": block.modulation,
                "attention.expansion": block.expansion,
                "attention.position_kernel": block.position_kernel,
            }
    return answers


def _order(stage: StageSpec) -> str:
    return "".join("C" if isinstance(block, ConvSpec) else "A" for block in stage.blocks)


def _allows(choices: StageChoices, stage: StageSpec) -> bool:
    if stage.channels not in choices.channels:
        return False
    allowed = {*choices.conv.specs(), *choices.attention.specs(stage.channels)}
    used = set(stage.blocks)
    order = _order(stage)
    # At most one block of each kind: a stage of the space repeats the same block.
    return used <= allowed and len(used) == len(set(order)) and order in choices.orders()
