"""Weights are found wherever they lie in a file; of several sets the averaged one is taken, and said."""

import argparse
import logging
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nas.networks import Architecture, ConvSpec, StageSpec
from nas.networks.modules import build_model, load_donor, load_model, load_weights, to_timm

Weights = dict[str, Tensor]
Same, Loading, Refusal = Callable[[Weights, Weights], None], Callable[..., Weights], Callable[..., str]
legacy = partial(torch.save, _use_new_zipfile_serialization=False)


def prefixed(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def larger(weights: Weights) -> Weights:
    return weights | {"stem.conv1.c.weight": torch.zeros(64, 3, 3, 3)}


class TestSets:
    @pytest.mark.parametrize(
        "wrap",
        [
            lambda w: {"state_dict": w, "epoch": 3},
            lambda w: {"model": {"module": w}, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}},
            lambda w: {"trainer": {"nets": [{"net": w}]}},
            lambda w: {"state_dict_ema": w},
            lambda w: {"ema": {"ema_state_dict": OrderedDict(w)}},
            lambda w: {"optimizer": {"exp_avg": dict.fromkeys(w, torch.zeros(2))}, "network": w},
            lambda w: w | {"epoch": 3, "args": argparse.Namespace(lr=0.1)},
            lambda w: {"state_dict": prefixed("module.", w) | {"n_averaged": torch.tensor(7)}},
            lambda w: prefixed("module.", w) | {"module.n_averaged": torch.tensor(7)},
            lambda w: w | {"n_averaged": torch.tensor(7)},
            lambda w: prefixed("model.", w) | {"loss.weight": torch.zeros(3), "metric.total": torch.tensor(0.0)},
            lambda w: prefixed("module._orig_mod.model.", w),
            lambda w: prefixed("model.module._orig_mod.", w),
            lambda w: prefixed("1.", w) | {"0.mean": torch.zeros(3)},
            lambda w: {n.replace("blocks.0.", "blocks.0._orig_mod."): t for n, t in w.items()},
            lambda w: {n if n.startswith("head.") else f"backbone.{n}": t for n, t in w.items()},
            lambda w: {f"net.{n}" if n.startswith("head.") else f"net.body.module.{n}": t for n, t in w.items()},
            lambda w: {"model": {"state_dict": w}},
            lambda w: prefixed("_fsdp_wrapped_module.", w),
            lambda w: prefixed("_orig_mod.module.", w),
            lambda w: {n: t.clone().mT.contiguous().mT if t.dim() > 1 else t for n, t in w.items()},
            lambda w: {n: t for n, t in w.items() if not n.endswith("num_batches_tracked")},
            lambda w: {
                n: t.float()[None] if n.endswith("num_batches_tracked") else nn.Parameter(t) for n, t in w.items()
            },
        ],
        ids=[
            "state_dict",
            "nested",
            "list",
            "ema",
            "nested_ema",
            "optimizer",
            "beside",
            "n_averaged",
            "swa",
            "swa_flat",
            "lightning",
            "ddp_first",
            "compiled",
            "sequential",
            "parts",
            "backbone",
            "body",
            "model_of_state_dict",
            "fsdp",
            "compiled_last",
            "not_contiguous",
            "no_counter",
            "counters",
        ],
    )
    def test_weights_are_found_wherever_they_lie(
        self,
        wrap: Callable[[Weights], object],
        weights: Weights,
        file: Path,
        caplog: pytest.LogCaptureFixture,
        loaded: Loading,
        assert_same: Same,
    ) -> None:
        torch.save(wrap(weights), file)

        assert_same(weights, loaded(file))
        assert caplog.records == []

    def test_counters_behind_a_prefix_are_kept_in_every_layer(
        self, file: Path, assert_same: Same, plain_network: Architecture
    ) -> None:
        stages = tuple(StageSpec(channels=8, blocks=(ConvSpec(kernel=7, expansion=1),) * 3) for _ in range(4))
        network = build_model(plain_network.model_copy(update={"stages": stages}))
        for name, tensor in network.state_dict().items():
            if name.endswith("num_batches_tracked"):
                tensor.fill_(7)
        torch.save(prefixed("module.", network.state_dict()), file)

        assert_same(network.state_dict(), load_model(network.architecture, file).state_dict())

    def test_weights_that_share_a_storage(
        self, weights: Weights, file: Path, loaded: Loading, assert_same: Same
    ) -> None:
        names = [name for name, tensor in weights.items() if tensor.is_floating_point()]
        parts = torch.cat([weights[name].flatten() for name in names]).split([weights[name].numel() for name in names])
        torch.save(weights | {n: part.view(weights[n].shape) for n, part in zip(names, parts, strict=True)}, file)

        assert_same(weights, loaded(file))

    def test_prefixes_in_safetensors(self, weights: Weights, file: Path, loaded: Loading, assert_same: Same) -> None:
        save_file(prefixed("module.", weights), file)

        assert_same(weights, loaded(file))

    @pytest.mark.parametrize(
        ("key", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16), ("64", torch.double)]
    )
    def test_other_precisions_are_converted(
        self, key: str, dtype: torch.dtype, weights: Weights, file: Path, loaded: Loading, assert_same: Same
    ) -> None:
        given = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
        torch.save(given, file)

        assert_same({name: tensor.to(weights[name].dtype) for name, tensor in given.items()}, loaded(file))

    @pytest.mark.parametrize(
        ("wrap", "taken", "other"),
        [
            (lambda w, a: {"state_dict": w, "state_dict_ema": a}, "state_dict_ema", "state_dict"),
            (lambda w, a: {"model_ema": {"module": a}, "model": w}, "model_ema.module", "model"),
            (lambda w, a: prefixed("model.", w) | prefixed("ema_model.module.", a), "ema_model.module", "model"),
            (lambda w, a: w | prefixed("ema.", a), "ema", "."),
            (lambda w, a: {"student": w, "model": a}, "model", "student"),
            (lambda w, a: {"student": w, "teacher": a}, "teacher", "student"),
            (lambda w, a: {"online": w, "target": {"net": a}}, "target.net", "online"),
            (lambda w, a: {"teacher": larger(w), "student": a}, "student", "teacher"),
            (lambda w, a: {"model": w, "modelEMA": a}, "modelEMA", "model"),
            (lambda w, a: {"model": w, "EMAModel": a}, "EMAModel", "model"),
            (lambda w, a: {"model": w, "modelema": a}, "modelema", "model"),
            (lambda w, a: {"params": w, "params_ema": a}, "params_ema", "params"),
            (lambda w, a: {"state_dict": w, "averaged_model": prefixed("module.", a)}, "averaged_model", "state_dict"),
            (lambda w, a: prefixed("model.", w) | prefixed("modelEMA.", a), "modelEMA", "model"),
            (lambda w, a: {"schema": w, "model": a}, "model", "schema"),
            (lambda w, a: {"ema": {n: t for n, t in w.items() if "running" not in n}, "model": a}, "model", "ema"),
        ],
        ids=[
            *("timm", "nested", "prefixes", "top", "usual", "mean teacher", "target", "distilled", "camel", "capitals"),
            *("one word", "params", "averaged", "camel prefix", "no average", "average of parameters alone"),
        ],
    )
    def test_of_several_the_averaged_weights_are_taken_and_said(
        self,
        wrap: Callable[[Weights, Weights], object],
        taken: str,
        other: str,
        weights: Weights,
        averaged: Weights,
        file: Path,
        caplog: pytest.LogCaptureFixture,
        loaded: Loading,
        assert_same: Same,
    ) -> None:
        torch.save(wrap(weights, averaged), file)

        assert_same(averaged, loaded(file))
        [record] = caplog.records
        assert record.levelno == logging.WARNING
        assert record.getMessage().startswith(f"{file}: holds weights under ")
        how = f"--weights-key {other} takes the other (in a search --option weights_key={other})"
        assert record.getMessage().endswith(f" taken, {taken}: {how}")

    def test_a_key_takes_the_other_weights(
        self,
        weights: Weights,
        averaged: Weights,
        file: Path,
        caplog: pytest.LogCaptureFixture,
        loaded: Loading,
        assert_same: Same,
        plain_network: Architecture,
    ) -> None:
        torch.save({"state_dict": weights, "ema": {"module": averaged}}, file)

        assert_same(weights, loaded(file, weights_key="state_dict"))
        assert_same(averaged, loaded(file, weights_key="ema"))
        assert_same(averaged, loaded(file, weights_key="ema.module"))
        network = build_model(plain_network)
        load_weights(network, file, weights_key="state_dict")
        assert_same(weights, to_timm(network)[0])
        donor = load_donor(file, {"small": plain_network}, weights_key="state_dict")
        assert_same(weights, to_timm(donor)[0])
        assert caplog.records == []

    def test_a_key_that_is_not_there(self, weights: Weights, file: Path, refusal: Refusal) -> None:
        torch.save({"state_dict": weights, "ema": weights | {}}, file)

        message = refusal(file, weights_key="model")

        assert message == "holds no sets of weights under the key model; its keys are state_dict, ema"

    def test_names_are_shown_on_one_line(self, weights: Weights, file: Path, refusal: Refusal) -> None:
        torch.save(weights | {"stages.0.\x1b[31m\n" + "x" * 500: torch.zeros(1)}, file)

        assert "has stages.0.\\x1b[31m\\nxx" in refusal(file)

    def test_a_dictionary_that_holds_itself(
        self, weights: Weights, file: Path, loaded: Loading, assert_same: Same
    ) -> None:
        around: dict[str, Any] = {"model": weights}
        around["model_ema"] = around
        torch.save(around, file)

        assert_same(weights, loaded(file))
