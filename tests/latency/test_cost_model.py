import json
import random
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from nas.errors import InputError
from nas.latency.cost_model import Coefficients, CostModel, FitRow, PublishedRow, demand, demands, jackknife_plus
from nas.networks import (
    Architecture,
    AttentionSpec,
    BlockSpec,
    ConvSpec,
    DownsampleSpec,
    Operation,
    StageSpec,
    StemSpec,
    operations,
    stage_layers,
)

COEFFICIENTS = Coefficients(
    dense_ms_per_gmac=0.18,
    low_reuse_ms_per_gmac=1.3,
    memory_ms_per_mb=0.025,
    stream_ms_per_mb=0.015,
    fused_ms_per_mb=0.0016,
    dispatch_ms=0.00026,
    overhead_ms=0.18,
)


def _scaled(factor: float) -> Coefficients:
    return Coefficients.model_validate({name: value * factor for name, value in COEFFICIENTS})


def _row(name: str, *, left_out_error: float) -> FitRow:
    return FitRow(
        name=name,
        published_ms=1.0,
        predicted_ms=1.0,
        left_out_ms=1 + left_out_error,
        left_out=_scaled(1 + left_out_error),
    )


@pytest.fixture(scope="module")
def model() -> CostModel:
    errors = (0.01, -0.02, 0.03, -0.04, 0.05, -0.06, 0.07, -0.08, 0.09)
    return CostModel(
        coefficients=COEFFICIENTS,
        overlap=4.0,
        channel_group=32,
        element_bytes=2,
        coverage=0.9,
        observed_coverage=8 / 9,
        fit_error_mean=0.0,
        fit_error_worst=0.0,
        left_out_error_mean=0.05,
        left_out_error_worst=0.09,
        rows=tuple(_row(f"row_{error:g}", left_out_error=error) for error in errors),
    )


def test_network_is_its_layers_and_the_overhead(model: CostModel, references: dict[str, Architecture]) -> None:
    layers = list(references["m"].layers())

    assert model.overhead_ms == 0.18
    assert model.network_ms(layers) == pytest.approx(sum(model.layer_ms(layer) for layer in layers) + 0.18)
    assert model.network_ms([]) == 0.18


def test_one_operation_lies_between_its_longest_stream_and_the_sum_of_all() -> None:
    (layer, *_) = Architecture(stages=(StageSpec(channels=64, blocks=(ConvSpec(kernel=7, expansion=4),)),) * 4).layers()
    first = demands(layer, channel_group=32, element_bytes=2)[0]

    # 3 channels of 224x224 into 32 of 112x112, kernel 5. Image channels are not rounded up, and 32 is a whole group.
    assert first.gmacs == pytest.approx(3 * 32 * 25 * 112 * 112 / 1e9)
    assert first.traffic_mb == pytest.approx((3 * 224 * 224 + 32 * 112 * 112) * 2 / 1e6)
    streams = [0.18 * first.gmacs, 0.015 * first.traffic_mb, 0.025 * first.weights_mb]
    cost = first.cost_ms(COEFFICIENTS, 4.0) - COEFFICIENTS.dispatch_ms
    assert max(streams) < cost < sum(streams)
    assert first.cost_ms(COEFFICIENTS, 1.0) - COEFFICIENTS.dispatch_ms == pytest.approx(sum(streams))


def test_channels_are_paid_for_in_whole_groups() -> None:
    def dense(channels: int) -> tuple[float, float, float]:
        stages = (StageSpec(channels=channels, blocks=(ConvSpec(kernel=7, expansion=4),)),) * 4
        layer = list(Architecture(stages=stages).layers())[1]
        part = demands(layer, channel_group=32, element_bytes=2)[1]
        return part.gmacs, part.traffic_mb, part.weights_mb

    # 48 channels count as 64, and their 192 hidden channels count as 192. The weights are not rounded up.
    gmacs, traffic_mb, weights_mb = dense(48)
    assert gmacs == pytest.approx(64 * 192 * 56 * 56 / 1e9)
    assert traffic_mb == pytest.approx((64 + 192) * 56 * 56 * 2 / 1e6)
    assert weights_mb == pytest.approx((48 * 192 + 192) * 2 / 1e6)


def test_interval_is_the_widest_left_out_prediction_for_nine_rows_at_ninety_percent(model: CostModel) -> None:
    layers = list(
        Architecture(stages=(StageSpec(channels=64, blocks=(ConvSpec(kernel=7, expansion=4),)),) * 4).layers()
    )
    low, high = model.interval_ms(layers)
    center = model.network_ms(layers)

    assert low == pytest.approx(center * 0.92 * 0.92)
    assert high == pytest.approx(center * 1.09 * 1.09)


def test_interval_holds_the_prediction_and_narrows_with_less_coverage() -> None:
    left_out = [(1 + shift / 100, 1 + shift / 100) for shift in range(1, 21)]
    wide = jackknife_plus(1.0, left_out, coverage=0.9)
    narrow = jackknife_plus(1.0, left_out, coverage=0.5)

    # With 20 rows, the second outermost value bounds the interval at 90 %, and the tenth at 50 %. Every low end is 1.
    assert wide == pytest.approx((1.0, 1.19 * 1.19))
    assert narrow == pytest.approx((1.0, 1.11 * 1.11))
    assert jackknife_plus(0.8, left_out, coverage=0.9)[0] == 0.8


def test_interval_of_any_coverage_that_the_rows_support(model: CostModel, references: dict[str, Architecture]) -> None:
    layers = list(references["m"].layers())
    wide, narrow = model.interval_ms(layers, 0.9), model.interval_ms(layers, coverage=0.5)

    assert wide == model.interval_ms(layers)
    assert wide[0] < narrow[0] < model.network_ms(layers) < narrow[1] < wide[1]
    with pytest.raises(
        InputError,
        match=r"an interval of coverage 0\.95 takes more than the 9 networks that the model was fitted to; "
        r"ask for 0\.9 at most",
    ):
        model.interval_ms(layers, 0.95)
    for coverage in (0.0, 1.0, 1.5, float("nan")):
        with pytest.raises(InputError, match=r"coverage must be above 0 and below 1, got"):
            model.interval_ms(layers, coverage)


def test_interval_that_the_rows_cannot_support_is_refused(model: CostModel) -> None:
    data = model.model_dump() | {"rows": model.model_dump()["rows"][:8]}

    with pytest.raises(ValidationError, match=r"an interval of coverage 0\.9 needs more rows, got 8"):
        CostModel.model_validate(data)


def test_json_round_trip_is_exact(model: CostModel) -> None:
    assert model == CostModel.model_validate_json(model.model_dump_json())


def test_unknown_key_and_free_operation_are_refused(model: CostModel) -> None:
    data = json.loads(model.model_dump_json())
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        CostModel.model_validate(data | {"colour": "red"})
    data["coefficients"]["memory_ms_per_mb"] = 0.0
    with pytest.raises(ValidationError, match="greater than 0"):
        CostModel.model_validate(data)


def test_description_says_how_far_to_trust_it(model: CostModel) -> None:
    text = "\n".join(model.describe())

    assert "fitted to 9 published times: error 0.0% in the mean, 0.0% at worst" in text
    assert "90% jackknife+ from 9 published times; 8 of these lay inside" in text
    assert "left out" in text
    other = PublishedRow(name="another", published_ms=1.0, predicted_ms=1.2)
    text = "\n".join(model.model_copy(update={"baselines": (other,)}).describe())
    assert "fitted to 9 published times (and, with little weight, to 1 of other networks): error 0.0%" in text
    assert re.search(r"another +1\.00 +1\.200 +\+20\.0%", text)


def test_norm_goes_through_memory() -> None:
    part = demand(Operation(kind="norm", weights=10, reads=500, writes=500), channel_group=32, element_bytes=2)

    assert part.cost_ms(COEFFICIENTS, 1.0) == pytest.approx(0.00026 + 0.025 * (1000 + 10) * 2 / 1e6)


def test_loading_the_model_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, nas.latency.cost_model; print(sorted({'numpy', 'scipy', 'torch'} & set(sys.modules)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout

    assert output.strip() == "[]"


# Below: every change makes one dimension of a random network larger, and the larger network must always be slower.

Change = Callable[[random.Random, Architecture], Architecture | None]


def test_whatever_makes_a_network_larger_makes_it_slower(model: CostModel) -> None:
    rng = random.Random(0)
    tried = dict.fromkeys(CHANGES, 0)
    for _ in range(60):
        network = _random_network(rng)
        before = model.network_ms(network.layers())
        for name, change in CHANGES.items():
            larger = change(rng, network)
            if larger is None:
                continue
            tried[name] += 1
            after = model.network_ms(larger.layers())
            # The limit is far above rounding errors. The smallest steps are one class more, and a depthwise kernel of 3
            # instead of 1 on a large map.
            assert after > before * (1 + 1e-11), f"{name}: {network.to_json()}"

    assert min(tried.values()) >= 10, tried


def test_no_layer_is_cheaper_than_the_device_can_be(model: CostModel) -> None:
    rng = random.Random(1)
    for layer in {layer for _ in range(60) for layer in _random_network(rng).layers()}:
        parts = operations(layer)
        # 7.9e12 MACs a second is the peak; 136 GB/s is four times the memory, as a bound on any cache.
        assert model.layer_ms(layer) > sum(part.macs for part in parts) / 7.9e9, layer.key
        assert model.layer_ms(layer) > sum(part.weights for part in parts) * 2 / 136e6, layer.key
        for part in demands(layer, channel_group=32, element_bytes=2):
            assert part.cost_ms(COEFFICIENTS, 4.0) > 0


def test_multi_head_attention_costs_more_than_single_head(model: CostModel) -> None:
    def attention_ms(heads: int | None) -> float:
        kind = "mha" if heads else "sha"
        spec = AttentionSpec(attention=kind, query_reduction=1, modulation=1.0, expansion=3, heads=heads)
        (layer,) = stage_layers(StageSpec(channels=192, blocks=(spec,)), 14)
        return model.layer_ms(layer)

    assert attention_ms(None) < attention_ms(1) < attention_ms(3) < attention_ms(6) < attention_ms(12)


def _random_network(rng: random.Random) -> Architecture:
    stages = []
    for _ in range(4):
        channels = 16 * rng.randint(1, 32)
        blocks = [_random_block(rng, channels) for _ in range(rng.randint(1, 8))]
        stages.append(StageSpec(channels=channels, blocks=tuple(blocks)))
    return Architecture(
        resolution=32 * rng.randint(2, 16),
        num_classes=rng.choice([2, 10, 1000, 21841]),
        stem=StemSpec(kernel=rng.choice([1, 3, 5, 7]), expansion=rng.randint(1, 6)),
        downsample=DownsampleSpec(kernel=rng.choice([1, 3, 5])),
        stages=tuple(stages),
    )


def _random_block(rng: random.Random, channels: int) -> BlockSpec:
    if rng.random() < 0.5:
        return ConvSpec(kernel=rng.choice([1, 3, 5, 7, 9]), expansion=rng.randint(1, 6))
    kind = rng.choice(["shma", "sha", "mha"])
    return AttentionSpec.model_validate(
        {
            "attention": kind,
            "query_reduction": rng.choice([1, 2, 4, 8]),
            "modulation": rng.choice([0.25, 0.5, 1.0, 1.5, 2.0]),
            "expansion": rng.randint(1, 6),
            "position_kernel": rng.choice([0, 3, 5, 7]),
            # The number of heads must divide the narrowest queries (C/8) and values (C/4).
            "heads": rng.choice([h for h in (1, 2, 4, 8) if channels // 8 % h == 0]) if kind == "mha" else None,
        }
    )


def _wider(rng: random.Random, network: Architecture) -> Architecture:
    index = rng.randrange(4)
    stage = network.stages[index]
    has_heads = any(isinstance(block, AttentionSpec) and block.heads for block in stage.blocks)
    step = 64 if has_heads else 16  # up to eight heads must still divide an eighth of the channels
    return _with_stage(
        network, index, StageSpec(channels=stage.channels + step * rng.randint(1, 3), blocks=stage.blocks)
    )


def _deeper(rng: random.Random, network: Architecture) -> Architecture:
    index = rng.randrange(4)
    stage = network.stages[index]
    position = rng.randint(0, len(stage.blocks))
    added = _random_block(rng, stage.channels)
    blocks = (*stage.blocks[:position], added, *stage.blocks[position:])
    return _with_stage(network, index, StageSpec(channels=stage.channels, blocks=blocks))


def _block_change(kind: type[BlockSpec], update: Callable[[Any, int], dict[str, object] | None]) -> Change:
    """Change one block of this kind; `update` is given the block and its channels, and returns the new values."""

    def change(rng: random.Random, network: Architecture) -> Architecture | None:
        places = [
            (index, position, values)
            for index, stage in enumerate(network.stages)
            for position, block in enumerate(stage.blocks)
            if isinstance(block, kind) and (values := update(block, stage.channels))
        ]
        if not places:
            return None
        index, position, values = rng.choice(places)
        stage = network.stages[index]
        blocks = list(stage.blocks)
        blocks[position] = type(blocks[position]).model_validate(blocks[position].model_dump() | values)
        return _with_stage(network, index, StageSpec(channels=stage.channels, blocks=tuple(blocks)))

    return change


def _with_stage(network: Architecture, index: int, stage: StageSpec) -> Architecture:
    stages = (*network.stages[:index], stage, *network.stages[index + 1 :])
    return network.model_copy(update={"stages": stages})


def _more_heads(block: AttentionSpec, channels: int) -> dict[str, object] | None:
    widths = (channels // block.query_reduction, block.value_channels(channels))
    if block.heads and all(width % (2 * block.heads) == 0 for width in widths):
        return {"heads": 2 * block.heads}
    return None


def _more_modulation(block: AttentionSpec, channels: int) -> dict[str, object] | None:
    value = block.value_channels(channels) + (block.heads or 1)
    return {"modulation": value / channels}


CHANGES: dict[str, Change] = {
    "channels": _wider,
    "depth": _deeper,
    "resolution": lambda rng, network: network.at(resolution=network.resolution + 32),
    "classes": lambda rng, network: network.at(num_classes=network.num_classes + 1),
    "stem kernel": lambda rng, network: network.model_copy(
        update={"stem": StemSpec(kernel=network.stem.kernel + 2, expansion=network.stem.expansion)}
    ),
    "stem expansion": lambda rng, network: network.model_copy(
        update={"stem": StemSpec(kernel=network.stem.kernel, expansion=network.stem.expansion + 1)}
    ),
    "downsample kernel": lambda rng, network: network.model_copy(
        update={"downsample": DownsampleSpec(kernel=network.downsample.kernel + 2)}
    ),
    "kernel": _block_change(ConvSpec, lambda block, channels: {"kernel": block.kernel + 2}),
    "conv expansion": _block_change(ConvSpec, lambda block, channels: {"expansion": block.expansion + 1}),
    "feed-forward expansion": _block_change(AttentionSpec, lambda block, channels: {"expansion": block.expansion + 1}),
    "less query reduction": _block_change(
        AttentionSpec,
        lambda block, channels: {"query_reduction": block.query_reduction // 2} if block.query_reduction > 1 else None,
    ),
    "modulation": _block_change(AttentionSpec, _more_modulation),
    "position kernel": _block_change(
        AttentionSpec,
        lambda block, channels: {"position_kernel": block.position_kernel + 2 if block.position_kernel else 3},
    ),
    "heads": _block_change(AttentionSpec, _more_heads),
    "sha to mha": _block_change(
        AttentionSpec,
        lambda block, channels: {"attention": "mha", "heads": 1} if block.attention == "sha" else None,
    ),
    "sha to shma": _block_change(
        AttentionSpec, lambda block, channels: {"attention": "shma"} if block.attention == "sha" else None
    ),
}
