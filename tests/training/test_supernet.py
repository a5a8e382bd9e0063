from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nas.errors import InputError
from nas.networks import SearchSpace, random_choice
from nas.training import load_supernet

SPACE = SearchSpace.find("tiny")


def test_every_network_of_the_space_has_weights(tiny_supernet: Path) -> None:
    supernet, choose = load_supernet(tiny_supernet), random_choice(seed=1)

    for _ in range(20):
        logits = supernet.network(SPACE.sample(choose))(torch.randn(2, 3, 32, 32))
        assert logits.shape == (2, 4)


class TestFiles:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (None, "cannot be read"),
            (b"", "is damaged, or no supernet"),
            (b"not a file of tensors", "is damaged, or no supernet"),
        ],
    )
    def test_what_is_no_supernet_is_refused(self, content: bytes | None, message: str, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        if content is not None:
            path.write_bytes(content)

        with pytest.raises(InputError, match=message):
            load_supernet(path)

    def test_weights_of_a_network_are_no_supernet(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        save_file({"layers.0.weight": torch.zeros(1)}, tmp_path / "x.safetensors")

        with pytest.raises(InputError, match="is no supernet: nas supernet train makes one"):
            load_supernet(tmp_path / "x.safetensors")
