from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from nas.data import ImageSet, fingerprint
from nas.errors import InputError
from nas.networks import SearchSpace, random_choice
from nas.training import SupernetRecipe, load_supernet
from nas.training.supernet import Origin, read_supernet

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

    def test_classes_and_fingerprint_of_the_data_are_kept(self, tiny_supernet: Path, colours: ImageSet) -> None:
        _, origin, _ = read_supernet(tiny_supernet)

        assert (colours.class_names, fingerprint(colours)) == (origin.class_names, origin.fingerprint)
        assert load_supernet(tiny_supernet).class_names == colours.class_names

    def test_file_from_before_they_were_kept_can_be_read(self, tiny_supernet: Path, tmp_path: Path) -> None:
        old = _as_before(tiny_supernet, tmp_path / "old.safetensors")

        assert load_supernet(old).class_names is None
        assert load_supernet(old).num_classes == 4

    @pytest.mark.parametrize(
        ("field", "value", "says"),
        [
            ("resolution", 0, "resolution: input should be greater than 0, got 0"),
            ("resolution", 33, "resolution: input should be a multiple of 32, got 33"),
            ("num_classes", 2**70, f"num_classes: input should be less than or equal to 1048576, got {2**70}"),
        ],
    )
    def test_sizes_that_no_network_has_are_refused(
        self, field: str, value: int, says: str, tiny_supernet: Path, tmp_path: Path
    ) -> None:
        from safetensors.torch import save_file

        tensors, origin, _ = read_supernet(tiny_supernet)
        odd = origin.model_copy(update={field: value})
        save_file(tensors, tmp_path / "x.safetensors", {"supernet": odd.model_dump_json()})

        with pytest.raises(InputError) as caught:
            load_supernet(tmp_path / "x.safetensors")

        assert f"{tmp_path}/x.safetensors: {says}" == str(caught.value)

    def test_a_tensor_of_another_number_of_axes_does_not_fit(self, tiny_supernet: Path, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        tensors, origin, _ = read_supernet(tiny_supernet)
        tensors["stem.first.conv.weight"] = tensors["stem.first.conv.weight"].flatten()
        save_file(tensors, tmp_path / "x.safetensors", {"supernet": origin.model_dump_json()})

        with pytest.raises(InputError, match=r"does not fit into the supernet: layers\.0\.first\.conv\.weight is"):
            load_supernet(tmp_path / "x.safetensors").network(SPACE.references["tiny_a"])

    def test_the_key_of_the_first_weights_is_kept(self, colours: ImageSet, tmp_path: Path) -> None:
        (tmp_path / "w.pth").write_bytes(b"weights")

        plain, chosen = (
            Origin.of(
                SPACE,
                colours,
                recipe=SupernetRecipe(),
                seed=0,
                init=tmp_path / "w.pth",
                weights_key=key,
                precision="fp32",
            )
            for key in (None, "model")
        )

        assert f"{plain.init}#model" == chosen.init
        assert plain.differing(chosen) == ["init"]

    def test_weights_of_a_network_are_no_supernet(self, tmp_path: Path) -> None:
        from safetensors.torch import save_file

        save_file({"layers.0.weight": torch.zeros(1)}, tmp_path / "x.safetensors")

        with pytest.raises(InputError, match="is no supernet: nas supernet train makes one"):
            load_supernet(tmp_path / "x.safetensors")


def _as_before(path: Path, old: Path) -> Path:
    """Write a supernet as it was written before its file kept the fingerprint and the classes of the data."""
    from safetensors.torch import save_file

    tensors, origin, _ = read_supernet(path)
    save_file(tensors, old, {"supernet": origin.model_dump_json(exclude={"fingerprint", "class_names"})})
    return old


def test_ending_anywhere_needs_averaged_weights() -> None:
    with pytest.raises(ValidationError, match="until needs an average"):
        SupernetRecipe(average=0.0)


def test_rates_fall_to_the_last_image_or_stay_with_an_average() -> None:
    falling, staying = SupernetRecipe(average=0.0, until=None), SupernetRecipe()

    assert falling.rates(499, steps=500) < 0.01
    assert [round(staying.rates(done, steps=2000), 2) for done in (0, 24, 49, 1999)] == [0.02, 0.5, 1.0, 1.0]


def test_shorter_trainings_have_half_the_images_and_enough_of_them() -> None:
    assert [recipe.images for recipe in SupernetRecipe().lengths] == [64_000, 32_000, 16_000, 8_000]
    assert [recipe.images for recipe in SupernetRecipe(images=100).lengths] == [100]
    assert {recipe.until for recipe in SupernetRecipe(until=0.6).lengths} == {0.6}
