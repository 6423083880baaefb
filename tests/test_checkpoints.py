"""Every format holds the same model; what cannot be served is refused in one line, and nothing in it ever runs."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import DATA, SHARED, crystal, make_model, molecule

from dpa1_fast import DPA1, Engine, load
from dpa1_fast.checkpoint import bundled, read_model, write_model
from dpa1_fast.config import DPA1Config, FittingConfig
from dpa1_fast.errors import ConfigError, ModelFileError

pytestmark = pytest.mark.usefixtures("quiet")

# These two hold no NaN: only nan_fitting.pt does. DeePMD-kit computes the same finite energy from both, and so do we.
FINITE_AFTER_ALL = ("nan_fitting.dp", "nan_fitting.pth")


# --- what is served -----------------------------------------------------------------------------------------------


def test_all_formats_hold_the_same_model() -> None:
    models = [read_model(DATA / f"concat_hard.{kind}").model for kind in ("pt", "pth", "dp", "yaml")]
    for other in models[1:]:
        assert other.config == models[0].config
        for name, tensor in models[0].state_dict().items():
            assert torch.equal(tensor, other.state_dict()[name]), name


def test_a_flat_state_dict_without_the_model_key(tmp_path: Path) -> None:
    data = torch.load(DATA / "concat_hard.pt", weights_only=True)
    torch.save(data["model"], tmp_path / "flat.pt")
    assert read_model(tmp_path / "flat.pt").model.config == read_model(DATA / "concat_hard.pt").model.config


def test_checkpoints_older_than_out_bias_and_the_second_copy_of_weights(tmp_path: Path) -> None:
    state = dict(torch.load(DATA / "concat_hard.pt", weights_only=True)["model"])
    old = {k: v for k, v in state.items() if "out_bias" not in k and "out_std" not in k and "._networks." not in k}
    torch.save(old, tmp_path / "old.pt")
    model, new = read_model(tmp_path / "old.pt").model, read_model(DATA / "concat_hard.pt").model
    assert not model.out_bias.any()
    assert torch.equal(model.embedding[0].weight, new.embedding[0].weight)
    torch.save(state, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    assert read_model(tmp_path / "legacy.pt").model.config == new.config


@pytest.mark.parametrize(("head", "width"), [("liquid", 16), ("vapour", 12), ("water", 16), ("VAPOUR", 12)])
def test_a_head_is_chosen_by_name_or_alias(head: str, width: int) -> None:
    assert load(DATA / "two_heads.pt", head=head).config.fitting.neuron[0] == width


@pytest.mark.parametrize(("head", "reason"), [(None, "heads liquid, vapour"), ("ice", "no head 'ice'")])
def test_a_multi_task_model_asks_for_its_head(head: str | None, reason: str) -> None:
    with pytest.raises(ModelFileError, match=reason):
        load(DATA / "two_heads.pt", head=head)


@pytest.mark.parametrize("kind", ["pt", "pth", "dp"])
def test_a_head_that_a_single_model_does_not_have(kind: str) -> None:
    with pytest.raises(ModelFileError, match="one head only"):
        load(DATA / f"concat_hard.{kind}", head="liquid")


@pytest.mark.parametrize("suffix", [".dp", ".yaml", ".safetensors"])
@pytest.mark.parametrize("source", sorted(p.name for p in DATA.glob("*.[dp][pt]*")))
def test_written_and_read_back_it_is_the_same_model(source: str, suffix: str, tmp_path: Path) -> None:
    head = "vapour" if source == "two_heads.pt" else None
    model = read_model(DATA / source, head).model
    write_model(model, tmp_path / f"copy{suffix}")
    copy = read_model(tmp_path / f"copy{suffix}").model
    assert copy.config == model.config
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, copy.state_dict()[name]), name


def test_the_json_inside_an_exported_model(tmp_path: Path) -> None:
    """.pt2 and .pte carry the portable tree as JSON in the archive."""
    import yaml

    tree = yaml.safe_load((DATA / "concat_hard.yaml").read_text())
    with zipfile.ZipFile(tmp_path / "model.pt2", "w") as archive:
        archive.writestr("model/extra/model.json", json.dumps(tree))
    assert read_model(tmp_path / "model.pt2").model.config == read_model(DATA / "concat_hard.dp").model.config


def test_a_model_in_memory_with_every_option_survives_dp(model: DPA1, tmp_path: Path) -> None:
    write_model(model, tmp_path / "m.dp")
    a, b = Engine(model), load(tmp_path / "m.dp")
    for atoms in (molecule(), crystal()):
        assert a.evaluate([atoms])[0].energy == b.evaluate([atoms])[0].energy


def test_bundled_models_load_by_name() -> None:
    assert bundled()
    for name in bundled():
        assert load(name).config.type_map
        assert read_model(name).path.stem == name


def test_suffixes_without_a_writer(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no writer for '.pth'; use one of .dp"):
        write_model(make_model(), tmp_path / "model.pth")


# --- what is refused ----------------------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(ModelFileError) as error:
        load(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert error.value.what
    assert error.value.remedy
    return message


def expectations() -> list[tuple[str, str]]:
    """(file, a word that its refusal must hold) for the shared files, where they are there."""
    index = SHARED / "index.json"
    if not index.exists():
        return []
    words = {"names se_e2_a": "se_e2_a", "names DPA-2": "DPA-2", "names DPA-3": "DPA-3", "empty file": "empty",
             "spin model": "spin", "linear model": "linear", "not a model file": "file", "attn_mask": "attn_mask",
             "not an energy model": "not an energy model", "non-finite weights": "non-finite", "zbl": "zbl",
             "lmax > 1 unsupported": "lmax", "no model_params": "model_params", "TensorFlow": "dp convert-backend",
             "damaged/truncated file": "damaged", "names the tensor": "fitting_net.filter_layers.networks.0.layers.1",
             "clearly": "slot"}  # fmt: skip
    found = []
    for entry in json.loads(index.read_text())["reject"]:
        if not any((SHARED / folder / entry["file"]).exists() for folder in ("reject", "slot_dependent_davg")):
            continue
        word = next((w for key, w in words.items() if key in entry["expect"]), "")
        found.append((entry["file"], word))
    return found


@pytest.mark.parametrize(("name", "word"), expectations())
def test_the_shared_files_are_refused(name: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = next(p for folder in ("reject", "slot_dependent_davg") if (p := SHARED / folder / name).exists())
    monkeypatch.chdir(tmp_path)
    if name in FINITE_AFTER_ALL:
        assert np.isfinite(load(path).evaluate([molecule()])[0].energy)
        return
    assert word in refused(path)
    assert not list(tmp_path.iterdir()), "opening a model file wrote something"


class Evil:
    """Pickles to a call of ``open``."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, ("PWNED", "w")


def test_no_pickle_ever_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bare.pt").write_bytes(pickle.dumps(Evil()))
    torch.save({"model": {"_extra_state": Evil()}}, tmp_path / "zip.pt")
    torch.save(Evil(), tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    with zipfile.ZipFile(tmp_path / "script.pth", "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps(Evil()))
        archive.writestr("m/constants.pkl", b"")
    for name in ("bare.pt", "zip.pt", "legacy.pt", "script.pth"):
        refused(tmp_path / name)
    assert not (tmp_path / "PWNED").exists()


def test_yaml_tags_do_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.yaml").write_text("model: !!python/object/apply:builtins.open ['PWNED', 'w']\n")
    assert "damaged" in refused(tmp_path / "m.yaml")
    assert not (tmp_path / "PWNED").exists()


def altered(tmp_path: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    data = torch.load(DATA / "concat_hard.pt", weights_only=True)
    change(data["model"])
    torch.save(data, tmp_path / "altered.pt")
    return tmp_path / "altered.pt"


FIT = "fitting_net.filter_layers.networks.0.layers.1.matrix"
KEY = f"model.Default.atomic_model.{FIT}"


def test_altered_weights_are_named(tmp_path: Path) -> None:
    assert f"lacks the tensor {FIT}" in refused(altered(tmp_path, lambda s: s.pop(KEY)))
    assert FIT in refused(altered(tmp_path, lambda s: s.update({KEY: s[KEY][:, :-1]})))
    assert "non-finite" in refused(altered(tmp_path, lambda s: s.update({KEY: s[KEY] * float("inf")})))
    assert "two different copies" in refused(altered(tmp_path, lambda s: s.update({KEY: s[KEY] + 1})))
    bias = "model.Default.atomic_model.out_bias"
    assert "lacks the tensor out_bias" in refused(altered(tmp_path, lambda s: s.pop(bias)))


def test_statistics_that_differ_by_slot(tmp_path: Path) -> None:
    def change(state: dict[str, Any]) -> None:
        state["model.Default.atomic_model.descriptor.se_atten.mean"][0, 3, 0] += 0.1

    assert "slot to slot" in refused(altered(tmp_path, change))


def test_bad_options_are_named(tmp_path: Path) -> None:
    def change(key: str, value: object) -> Callable[[dict[str, Any]], None]:
        def inner(state: dict[str, Any]) -> None:
            descriptor = state["_extra_state"]["model_params"]["descriptor"]
            descriptor[key] = value

        return inner

    assert "activation_function 'swish9'" in refused(altered(tmp_path, change("activation_function", "swish9")))
    assert "rcut_smth" in refused(altered(tmp_path, change("rcut_smth", 9.0)))
    assert "hybrid" in refused(altered(tmp_path, change("type", "hybrid")))


@pytest.mark.parametrize("kind", ["pt", "pth", "dp"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short(kind: str, part: float, tmp_path: Path) -> None:
    data = (DATA / f"concat_hard.{kind}").read_bytes()
    (tmp_path / f"cut.{kind}").write_bytes(data[: int(len(data) * part)])
    assert "damaged" in refused(tmp_path / f"cut.{kind}")


def test_other_things_that_are_no_models(tmp_path: Path) -> None:
    assert "folder" in refused(tmp_path)
    assert "no such file" in refused(tmp_path / "nothing.pt")
    (tmp_path / "notes.txt").write_text("hello")
    assert "text file" in refused(tmp_path / "notes.txt")
    with h5py.File(tmp_path / "other.dp", "w") as file:
        file.attrs["json"] = "{}"
    assert "not a DeePMD-kit model" in refused(tmp_path / "other.dp")
    shutil.make_archive(str(tmp_path / "some"), "zip", DATA, "make_fixtures.py")
    assert "not one that torch wrote" in refused(tmp_path / "some.zip")


def test_our_own_format_is_checked_as_strictly(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model, path = make_model(), tmp_path / "m.safetensors"
    write_model(model, path)
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)

    def written(change: dict[str, torch.Tensor | None], **told: str) -> Path:
        kept = {k: v for k, v in {**tensors, **change}.items() if v is not None}
        save_file(kept, tmp_path / "n.safetensors", {**metadata, **told})
        return tmp_path / "n.safetensors"

    assert "lacks the tensor davg" in refused(written({"davg": None}))
    assert "davg has shape" in refused(written({"davg": torch.zeros(2, 4)}))
    assert "non-finite" in refused(written({"dstd": tensors["dstd"] * torch.nan}))
    assert "something else" in refused(written({}, format="cat"))
    assert "update dpa1-fast" in refused(written({}, version="99"))
    assert "bad configuration" in refused(written({}, config="{}"))
    path.write_bytes(path.read_bytes()[:-7])
    assert "damaged" in refused(path)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"type_map": ()}, "type_map .* it is empty"),
        ({"type_map": ("H", "H")}, "twice"),
        ({"rcut_smth": 8.0}, "rcut_smth"),
        ({"sel": (0,)}, "sel"),
        ({"axis_neuron": 101}, "axis_neuron"),
        ({"tebd_input_mode": "glue"}, "tebd_input_mode"),
        ({"attn_layer": -1}, "attn_layer"),
        ({"attn_layer": 10**9}, "attn_layer is 1000000000; it must be a whole number from 0 to 256"),
        ({"neuron": (25, 1 << 40)}, "neuron"),
        ({"neuron": (25, True)}, "neuron"),
        ({"neuron": [25, 50]}, "neuron"),
        ({"sel": (8.5,)}, "sel"),
        ({"rcut": float("nan")}, "rcut is nan; it must be a finite number"),
        ({"rcut": float("inf")}, "rcut is inf"),
        ({"ln_eps": float("nan")}, "ln_eps"),
        ({"temperature": float("inf")}, "temperature"),
        ({"scaling_factor": 0.0, "attn_layer": 1}, "scaling_factor"),
        ({"smooth_type_embedding": "yes"}, "smooth_type_embedding is 'yes'; it must be True or False"),
        ({"precision": "float8"}, "precision 'float8' is not known; known are"),
        ({"exclude_types": ((0, 1, 2),)}, "exclude_types"),
        ({"activation_function": "mish"}, "activation_function 'mish' is not known; known are tanh"),
        ({"activation_function": "silutfoo"}, "'silutfoo' is not known"),
        ({"activation_function": "silut:nan"}, "the threshold must be a number"),
        ({"activation_function": "silut:inf"}, "the threshold must be a number"),
        ({"activation_function": "silut:"}, "the threshold must be a number"),
        ({"activation_function": "tanh:3"}, "'tanh:3' is not known"),
    ],
)
def test_options_that_contradict_each_other(wrong: dict[str, Any], reason: str) -> None:
    right: dict[str, Any] = {"type_map": ("H",), "rcut": 4.0, "rcut_smth": 1.0, "sel": (8,)}
    with pytest.raises(ConfigError, match=reason):
        DPA1Config(**{**right, **wrong})


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"numb_fparam": 2, "default_fparam": (1.0,)}, "default_fparam"),
        ({"numb_aparam": -1}, "numb_aparam"),
        ({"neuron": (0,)}, "fitting neuron"),
        ({"atom_ener": (float("nan"),)}, "atom_ener"),
        ({"activation_function": "silut:foo"}, "the threshold must be a number"),
    ],
)
def test_options_of_the_energy_net_that_make_no_sense(wrong: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        FittingConfig(**wrong)
