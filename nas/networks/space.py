"""Which networks are allowed: a space from search_spaces/*.toml, its networks, their number and layers. No torch."""

from __future__ import annotations

import functools
import random
import tomllib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise, product
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args

from pydantic import Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from nas import catalog
from nas.errors import InputError, visible
from nas.files import digest_of, read_text
from nas.networks.architecture import Architecture, stage_size
from nas.networks.choices import NetworkChoices, ReferenceChoices, StageChoices, Wholes
from nas.networks.layers import AttentionLayer, ConvLayer, DownsampleLayer, HeadLayer, Layer, StemLayer
from nas.networks.specs import Count, DownsampleSpec, StageSpec, StemSpec
from nas.networks.stages import (
    Choose,
    allows,
    extreme_stage,
    layers_of_blocks,
    sample_stage,
    stage_choices,
    stages_of_one_block,
)
from nas.networks.timm import COMMON, common_values, timm_options, why_not_timm, with_value

__all__ = ["MustFit", "SearchSpace", "random_choice"]

T = TypeVar("T")
MustFit = Literal["timm"]
_LONGEST_TEXT, _LONGEST_LINE = 2**18, 10_000  # characters; the time of tomllib grows with the square of a line


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
    must_fit: MustFit | None = None
    reference: dict[str, ReferenceChoices] = Field(default_factory=dict)

    @classmethod
    def find(cls, name: str) -> SearchSpace:
        """The space that `name` refers to: a path, or a file of the search_spaces folders.

        Raises:
            InputError: there is no such space, or the file breaks a rule; the message names the place in the file.
        """
        return cls.load(catalog.find_file("search space", "search_spaces", ".toml", name))

    @classmethod
    def load(cls, path: Path | str) -> SearchSpace:
        """Read a space file and check every option in it, references included.

        Raises:
            InputError: the file is unreadable, is not TOML, or has an unknown key or a value that breaks a rule.
        """
        path = Path(path)
        text = read_text(path)
        if len(text) > _LONGEST_TEXT or any(len(line) > _LONGEST_LINE for line in text.splitlines()):
            raise InputError(
                f"{path}: a search space is a text of {_LONGEST_TEXT:,} characters at most, {_LONGEST_LINE:,} a line"
            )
        return _parsed(cls, str(path), text)

    @classmethod
    def _of_text(cls, where: str, text: str) -> Self:
        try:
            data = tomllib.loads(text)
        except RecursionError as error:
            raise InputError(f"{where}: not valid TOML: nested too deep") from error
        except ValueError as error:  # Broken TOML, or a number of thousands of digits.
            raise InputError(f"{where}: not valid TOML: {visible(str(error), limit=200)}") from error
        try:
            space = cls.model_validate(data)
        except ValidationError as error:
            raise InputError.from_validation(where, error) from error
        space._check_options(where)
        return space.fitting(space.must_fit, where=where) if space.must_fit else space

    def fitting(self, tool: str, *, where: str = "--must-fit") -> Self:
        """Those networks of the space that another tool can build with its own arguments.

        Options that the tool lacks are left out; nothing is drawn in vain. The references stay as they are.

        Args:
            tool: `timm`.
            where: for messages.
        Raises:
            InputError: there is no such tool, or no network of the space fits.
        """
        if tool not in get_args(MustFit):
            raise catalog.unknown_name("tool to fit", tool, get_args(MustFit))
        try:
            fields = timm_options(self, self.resolution)
        except InputError as error:
            raise InputError(f"{where}: {error}") from error
        return type(self).model_validate({**self.model_dump(by_alias=True), **fields, "must_fit": tool})

    @cached_property
    def references(self) -> dict[str, Architecture]:
        """The known networks of the file, at the first resolution of the space."""
        return {name: self._as_space(reference).sample(_no_choice) for name, reference in self.reference.items()}

    @property
    def digest(self) -> str:
        """Hash of the content: equal spaces have equal digests."""
        return digest_of(self.model_dump_json())

    @model_serializer(mode="wrap")
    def _as_before(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without `must_fit` where there is none: files from before that field are compared with what is written."""
        fields: dict[str, Any] = handler(self)
        return fields if self.must_fit else {name: value for name, value in fields.items() if name != "must_fit"}

    def sample(self, choose: Choose) -> Architecture:
        """One network of the space, from the answers of `choose`.

        `choose` is not asked for a parameter with one option, or for a parameter that does not apply. Where a tool has
        one value of it in the whole network, it is asked once, for the first stage that has such blocks.
        """
        known: dict[str, Any] = {}  # of the stages before, where all must agree

        def ask(name: str, options: Sequence[T]) -> T:
            own = name.partition("].")[2] if self.must_fit else ""
            answer: T
            if own in COMMON and own in known:
                answer = known[own]
            else:
                answer = options[0] if len(options) == 1 else choose(name, options)
            if own == "channels" and known.get(own) == answer:  # the next width in place of the same again
                answer = options[(options.index(answer) + 1) % len(options)]
            known[own] = answer
            return answer

        resolution = ask("resolution", self.resolution)
        return Architecture(
            resolution=resolution,
            num_classes=self.num_classes,
            stem=StemSpec(
                kernel=ask("stem.kernel", self.stem.kernel), expansion=ask("stem.expansion", self.stem.expansion)
            ),
            downsample=DownsampleSpec(kernel=ask("downsample.kernel", self.downsample.kernel)),
            layer_scale=self.layer_scale,
            stages=tuple(
                sample_stage(f"stages[{index}]", stage, ask, size=stage_size(resolution, index))
                for index, stage in enumerate(self.stages)
            ),
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
            for name, answer in stage_choices(choices, stage).items():
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
            and all(
                allows(choices, stage, size=stage_size(architecture.resolution, index))
                for index, (choices, stage) in enumerate(zip(self.stages, architecture.stages, strict=True))
            )
            and not (self.must_fit and why_not_timm(architecture))
        )

    def count(self) -> int:
        """Number of distinct networks, exactly."""
        stages = self._variants[0]
        having = {(False, False): sum(1 for _ in self._widths())}  # numbers of networks with such blocks
        for stage in stages:
            more: dict[tuple[bool, bool], int] = {}
            for (convs, units), number in having.items():
                for (own_convs, own_units), own in stage.counts().items():
                    both = convs or own_convs, units or own_units
                    more[both] = more.get(both, 0) + number * own
            having = more
        common = prod(map(len, (self.resolution, self.stem.kernel, self.stem.expansion, self.downsample.kernel)))
        for (convs, units), number in having.items():
            counted = [name for name in self._common if (convs if name.startswith("conv.") else units)]
            having[convs, units] = number * prod(len(self._common[name]) for name in counted)
        return common * sum(having.values())

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every distinct layer that a network of the space can have."""
        found: dict[Layer, None] = {}
        for resolution in self.resolution:
            for index, stage in enumerate(self.stages):
                found.update(dict.fromkeys(layers_of_blocks(stage, stage_size(resolution, index))))
            for widths in self._widths():
                smallest = [
                    next(stages_of_one_block(stage, (width,))) for stage, width in zip(self.stages, widths, strict=True)
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

        best: dict[tuple[int, int, int], list[tuple[float, StageSpec]]] = {}  # one of each variant
        for resolution, variant in product(self.resolution, self._variants):
            for index, stage in enumerate(variant):
                size = stage_size(resolution, index)
                for channels in stage.channels:
                    cost, spec = extreme_stage(
                        stage, size, channels=channels, costs=costs.__getitem__, combine=combine, sign=sign
                    )
                    best.setdefault((resolution, index, channels), []).append((cost, spec))

        def stages(resolution: int, widths: Sequence[int]) -> list[StageSpec]:
            """The best stages of these widths that all belong to one variant."""
            variants = zip(*(best[resolution, index, width] for index, width in enumerate(widths)), strict=True)
            return [spec for _, spec in min(variants, key=lambda one: sign * combine(cost for cost, _ in one))]

        return min(
            (
                network
                for resolution in self.resolution
                for widths in self._widths()
                for network in self._networks(resolution, stages(resolution, widths))
            ),
            key=lambda network: total(network.layers()),
        )

    @cached_property
    def _common(self) -> dict[str, tuple[Any, ...]]:
        """The values of what all stages have in common for the tool that the space must fit."""
        return {name: common_values(self.stages, name) for name in COMMON} if self.must_fit else {}

    @cached_property
    def _variants(self) -> list[tuple[StageChoices, ...]]:
        """The stages with each choice of what all of them have in common: together, the networks of the space."""
        found = [self.stages]
        for name, values in self._common.items():
            found = [with_value(stages, name, value) for stages in found for value in values]
        return found

    def _widths(self) -> Iterator[tuple[int, ...]]:
        """The widths that the stages of a network can have."""
        for widths in product(*(stage.channels for stage in self.stages)):
            if not self.must_fit or all(one != other for one, other in pairwise(widths)):
                yield widths

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
            self._check_window(stage, index, where)
            try:
                list(stages_of_one_block(stage))
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

    def _check_window(self, stage: StageChoices, index: int, where: str) -> None:
        window = stage.attention.window
        for resolution in self.resolution:
            size = stage_size(resolution, index)
            if any(stage.attention.depth) and 0 < window < size and size % window:
                raise InputError(
                    f"{where}: stages[{index}].attention.window: must divide the {size}x{size} map at {resolution} px, "
                    f"or not be smaller, got {window}"
                )


@functools.lru_cache(maxsize=16)
def _parsed(kind: type[SearchSpace], where: str, text: str) -> SearchSpace:
    """A space of a text; checking a large one takes half a second, and commands of one process ask again and again."""
    return kind._of_text(where, text)


def _no_choice(name: str, options: Sequence[T]) -> T:
    raise AssertionError(f"{name} should have had one option, has {len(options)}")
