from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nas.errors import InputError
from nas.networks import Architecture, AttentionSpec, ConvSpec, StageSpec
from nas.networks.modules import SharedWeights, build_model, skeleton

CONV = ConvSpec(kernel=5, expansion=4)
SMALL_CONV = ConvSpec(kernel=3, expansion=2)
IMAGES = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def _attention(kind: str = "shma", **changes: object) -> AttentionSpec:
    settings = {"attention": kind, "query_reduction": 1, "modulation": 1.0, "expansion": 3, **changes}
    return AttentionSpec.model_validate(settings)


def _network(*blocks: ConvSpec | AttentionSpec, width: int = 16, **changes: object) -> Architecture:
    stages = tuple(StageSpec(channels=width * 2**i, blocks=blocks or (CONV, _attention())) for i in range(4))
    return Architecture.model_validate({"resolution": 64, "num_classes": 5, "stages": stages, **changes})


@pytest.fixture
def shared() -> SharedWeights:
    largest = [_network(CONV, CONV, _attention(kind), _attention(kind)) for kind in ("shma", "sha")]
    weights = SharedWeights.holding(map(build_model, largest))
    random = torch.Generator().manual_seed(0)
    for tensor in weights.tensors.values():
        torch.nn.init.normal_(tensor, generator=random)  # no zeros, so that every element matters
    return weights


def _part(shared: SharedWeights, architecture: Architecture) -> dict[str, Tensor]:
    return shared.part(skeleton(architecture))


def test_largest_network_takes_everything(shared: SharedWeights) -> None:
    part = _part(shared, _network(CONV, CONV, _attention(), _attention()))

    own = {name: tensor for name, tensor in shared.tensors.items() if ".sha." not in name}
    assert sum(map(torch.Tensor.numel, own.values())) == sum(map(torch.Tensor.numel, part.values()))


def test_every_part_loads_into_the_network_it_is_of(shared: SharedWeights) -> None:
    mixed = _network(_attention("sha", query_reduction=4, modulation=0.5, position_kernel=0), SMALL_CONV, CONV)
    for architecture in (_network(SMALL_CONV, width=8), mixed):
        network = build_model(architecture)

        missing = network.load_state_dict(_part(shared, architecture), strict=False).missing_keys
        assert [key for key in missing if not key.split(".")[-1].startswith(("running", "num_batches"))] == []


def test_narrower_network_takes_the_first_channels(shared: SharedWeights) -> None:
    wide = _part(shared, _network(CONV))
    narrow = _part(shared, _network(CONV, width=8))

    for name in ("layers.1.branch.1.conv.weight", "layers.2.conv.weight", "layers.1.branch.3.norm.bias"):
        theirs = wide[name][tuple(slice(0, size) for size in narrow[name].shape)]
        assert torch.equal(theirs, narrow[name])


def test_smaller_kernel_is_the_middle_of_the_larger(shared: SharedWeights) -> None:
    large = _part(shared, _network(CONV))["layers.1.branch.0.conv.weight"]
    small = _part(shared, _network(SMALL_CONV))["layers.1.branch.0.conv.weight"]

    assert torch.equal(large[:, :, 1:4, 1:4], small)


def test_values_and_gates_each_give_their_first_channels(shared: SharedWeights) -> None:
    name = "layers.1.attention.branch.0.value.conv.weight"
    whole = _part(shared, _network(_attention()))[name]
    half = _part(shared, _network(_attention(modulation=0.5)))[name]

    values, gates = whole.chunk(2)
    assert torch.equal(torch.cat([values[:8], gates[:8]]), half)


def test_blocks_are_counted_by_kind_within_a_stage(shared: SharedWeights) -> None:
    convs_first = _part(shared, _network(CONV, CONV, _attention()))
    attention_between = _part(shared, _network(CONV, _attention(), CONV))

    assert torch.equal(convs_first["layers.2.branch.1.conv.weight"], attention_between["layers.3.branch.1.conv.weight"])
    query = "attention.branch.0.query.conv.weight"
    assert torch.equal(convs_first[f"layers.3.{query}"], attention_between[f"layers.2.{query}"])


def test_kinds_of_attention_share_queries_but_not_values(shared: SharedWeights) -> None:
    shma, sha = (_part(shared, _network(_attention(kind))) for kind in ("shma", "sha"))

    prefix = "layers.1.attention.branch"
    assert torch.equal(shma[f"{prefix}.0.query.conv.weight"], sha[f"{prefix}.0.query.conv.weight"])
    assert not torch.equal(shma[f"{prefix}.0.value.conv.weight"][:16], sha[f"{prefix}.0.value.conv.weight"])
    assert not torch.equal(shma[f"{prefix}.1.conv.weight"], sha[f"{prefix}.1.conv.weight"])


def test_gradients_reach_the_part_and_nothing_else(shared: SharedWeights) -> None:
    for tensor in shared.tensors.values():
        tensor.requires_grad_()
    network = skeleton(_network(SMALL_CONV, width=8))

    logits = torch.func.functional_call(network, shared.part(network), (IMAGES,))
    logits.square().sum().backward()

    gradient = shared.tensors["stages.0.conv.0.branch.0.conv.weight"].grad
    assert gradient is not None
    assert gradient[:8, :, 1:4, 1:4].abs().sum((1, 2, 3)).min() > 0
    assert gradient.count_nonzero() == gradient[:8, :, 1:4, 1:4].count_nonzero()
    assert shared.tensors["stages.0.conv.1.branch.0.conv.weight"].grad is None


def test_forward_pass_is_that_of_the_network_built(shared: SharedWeights) -> None:
    architecture = _network(SMALL_CONV, _attention(modulation=0.5, query_reduction=2), width=8)
    network = build_model(architecture)
    network.load_state_dict(_part(shared, architecture), strict=False)

    bare = skeleton(architecture)
    logits = torch.func.functional_call(bare, shared.part(bare), (IMAGES,))

    torch.testing.assert_close(network.train()(IMAGES), logits)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        (_network(CONV, width=32), r"does not fit into the supernet: layers.0.first.conv.weight is \(16, 3, 5, 5\)"),
        (_network(CONV, CONV, CONV), r"layers.3.branch.0.conv.weight is .*the supernet has no such tensor"),
        (_network(_attention(position_kernel=5)), "position.encode.conv.weight"),
    ],
    ids=["wider", "deeper", "larger kernel"],
)
def test_network_that_does_not_fit_is_refused(shared: SharedWeights, architecture: Architecture, message: str) -> None:
    with pytest.raises(InputError, match=message):
        _part(shared, architecture)
