"""Files from strangers: whatever is in them, one clear line within seconds, and no more memory than they are worth."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import struct
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from conftest import DATA, make_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dpa1_fast.checkpoint import parsing, read_model, write_model, writing
from dpa1_fast.errors import ModelFileError

pytestmark = pytest.mark.usefixtures("quiet")
DAMAGE = ("damaged", "corrupt", "truncated", "broken", "cut short")


@contextmanager
def bounded(seconds: float = 10, megabytes: int = 400) -> Iterator[None]:
    """Time of a processor, which others may be using too, and growth of the address space."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 1_000_000, before[1]))
    start = time.process_time()
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.process_time() - start < seconds


def refused(path: Path) -> str:
    with bounded(), pytest.raises(ModelFileError) as error:
        read_model(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 1000
    return message.removeprefix(str(path))


# --- sound files of another kind are named -------------------------------------------------------------------------

OTHERS = {
    "p.png": (b"\x89PNG\r\n\x1a\n", "PNG"),
    "a.tgz": (b"\x1f\x8b\x08", "gzip"),
    "a.db": (b"SQLite format 3\x00", "SQLite"),
    "m.pth": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "m.pt": (b"<!DOCTYPE html><html>", "web page"),
    "x.npy": (b"\x93NUMPY\x01\x00", "numpy"),
    "POSCAR": (b"Al\n1.0\n", "text file"),
    "graph.pb": (b"\n\x1a\n\x05Const", "TensorFlow"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_sound_file_of_another_kind_is_named_and_not_called_damaged(name: str, tmp_path: Path) -> None:
    data, word = OTHERS[name]
    (tmp_path / name).write_bytes(data)
    message = refused(tmp_path / name)
    assert word in message
    assert not any(w in message for w in DAMAGE)


def test_data_models_of_other_kinds_folders_and_pipes(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "data.hdf5", "w") as file:
        file["sys/set.000/coord.npy"] = np.zeros((1, 9))
    np.savez(tmp_path / "frames.npz", a=np.zeros(3))
    (tmp_path / "dpa2.yaml").write_text(
        "model: {type: standard, type_map: [O], fitting: {type: ener}, descriptor: {type: dpa2, "
        "a: {'@variables': {x: [{value: [0.1]}], y: []}}}}"
    )
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").touch()
    os.mkfifo(tmp_path / "pipe.pt")
    words = {"data.hdf5": "data, not a model", "frames.npz": "npz", "dpa2.yaml": "DPA-2", "saved": "TensorFlow"}
    for name, word in {**words, "pipe.pt": "pipe"}.items():
        message = refused(tmp_path / name)
        assert word in message
        assert not any(w in message for w in DAMAGE)


# --- what grows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("key", ["other", "model"])
def test_yaml_whose_aliases_multiply(merge: bool, key: str, tmp_path: Path) -> None:
    first, level = ("{x: 1}", "{{'<<': [{0}]}}") if merge else ("[x, x, x]", "[{0}]")
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{k}: &a{k} {level.format(', '.join([f'*a{k - 1}'] * 9))}" for k in range(1, 12)]
    (tmp_path / "m.yaml").write_text("\n".join(lines) + f"\n{key}: *a11\n")
    refused(tmp_path / "m.yaml")


def test_an_array_of_aliases_and_numbers_of_base_60(tmp_path: Path) -> None:
    text = (DATA / "concat_hard.yaml").read_text()
    bomb = "bomb:\n- &b0 [0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]\n"
    bomb += "".join(f"- &b{k} [{', '.join([f'*b{k - 1}'] * 8)}]\n" for k in range(1, 8))
    at = text.index("value:", text.index("bias_atom_e"))
    end = text.index("\n  ", text.index("- ", at))
    for value in ("*b7", ":".join(["59"] * 200_000)):
        (tmp_path / "m.yaml").write_text(f"{bomb}{text[:at]}value: {value}{text[end:]}")
        refused(tmp_path / "m.yaml")


@pytest.mark.parametrize(("open_", "close"), [("[", "]"), ('{"a":', "}")])
def test_texts_nested_without_end(open_: str, close: str, tmp_path: Path) -> None:
    deep = open_ * 200_000 + "1" + close * 200_000
    (tmp_path / "m.yaml").write_text(deep)
    with h5py.File(tmp_path / "m.dp", "w") as file:
        file.attrs.create("json", deep, dtype=h5py.string_dtype())
    with zipfile.ZipFile(tmp_path / "m.pt2", "w") as archive:
        archive.writestr("extra/model.json", deep)
    for name in ("m.yaml", "m.dp", "m.pt2"):
        refused(tmp_path / name)


@pytest.mark.parametrize("member", ["m/data.pkl", "m/data/0", "m/model.json", "m/other"])
def test_a_zip_bomb_is_not_unpacked(member: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "m.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/constants.pkl", b"")
        with archive.open(member, "w", force_zip64=True) as file:
            for _ in range(60):
                file.write(bytes(10_000_000))
    assert "unpack to 6e+08" in refused(tmp_path / "m.pth")


def pickled(path: Path, data: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", data)
    return path


@pytest.mark.parametrize(
    "body",
    [
        b")" + b"\x85" * 500_000 + b"N",  # a tuple nested half a million deep, as a key
        b"cbuiltins\nbytearray\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R",  # memory for 2^40 bytes
        b"ctorch\nTensor\n\x8a\x06\x00\x00\x00\x00\x00\x01\x85R",
        b"K\x00r\xff\xff\xff\x7f",  # place 2^31 in the memo
        b"K\x00" * 1_200_000,
        b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f",  # a frame of 2^63 bytes
        b"cbuiltins\neval\nX\x01\x00\x00\x001\x85R",
        b"cos\nsystem\nX\x01\x00\x00\x001\x85R",
    ],
)
def test_pickles_that_would_run_or_grow(body: bytes, tmp_path: Path) -> None:
    refused(pickled(tmp_path / "m.pt", b"\x80\x02}" + body + b"K\x01s."))
    (tmp_path / "bare.pt").write_bytes(b"\x80\x02}" + body + b"K\x01s.")
    refused(tmp_path / "bare.pt")


def test_tensors_that_reach_past_their_numbers(tmp_path: Path) -> None:
    state = torch.load(DATA / "concat_hard.pt", weights_only=True)["model"]
    key = "model.Default.atomic_model.fitting_net.bias_atom_e"
    torch.save({**state, key: torch.ones(1).double().expand(50_000, 50_000)}, tmp_path / "m.pt")
    assert "reaches past its storage" in refused(tmp_path / "m.pt")


# --- options that the tensors do not account for -------------------------------------------------------------------


def rewritten(path: Path, **told: Any) -> Path:
    """Our own format with other options than its tensors."""
    write_model(make_model(), path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    config = json.loads(metadata["config"])
    config["fitting"].update(told.pop("fitting", {}))
    config.update(told)
    save_file(load_file(path), path, {**metadata, "config": json.dumps(config)})
    return path


@pytest.mark.parametrize(
    "told",
    [
        {"attn_layer": 10**9},
        {"neuron": [10**6, 10**6, 10**6]},
        {"attn": 10**9},
        {"neuron": [16] * 100_000},
        {"fitting": {"neuron": [10**15]}},
        {"fitting": {"numb_fparam": 10**12}},
        {"type_map": [f"T{k}" for k in range(100_000)]},
        {"tebd_dim": 10**30},
        {"sel": [10**18]},
        {"rcut": 1e9},
        {"rcut": float("inf")},
        {"rcut": "4.0"},
        {"neuron": [4, 8, "16"]},
        {"neuron": 16},
        {"attn_layer": 1.5},
        {"normalize": "yes"},
        {"scaling_factor": -1.0},
        {"ln_eps": float("nan")},
        {"activation_function": 7},
        {"activation_function": "silut:-1e9"},
        {"type_map": "HCO"},
        {"exclude_types": [[0, [1]]]},
        {"fitting": {"atom_ener": {}}},
        {"use_econf_tebd": True, "type_map": ["H", "C", "nonsense"]},
        {"surplus": 1},
    ],
)
def test_options_that_are_wrong_or_larger_than_the_file(told: dict[str, Any], tmp_path: Path) -> None:
    refused(rewritten(tmp_path / "m.safetensors", **told))


@pytest.mark.parametrize("config", ["[" * 100_000, "null", "[]", '{"fitting": 3}', "9" * 5000, "\\ud800"])
def test_metadata_that_is_no_configuration(config: str, tmp_path: Path) -> None:
    write_model(make_model(), tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file(load_file(tmp_path / "m.safetensors"), tmp_path / "n.safetensors", {**metadata, "config": config})
    refused(tmp_path / "n.safetensors")


def test_a_number_in_the_weights_that_is_none(tmp_path: Path) -> None:
    """Section 10.9 of the notes on DPA-1: DeePMD-kit loads these silently."""
    write_model(make_model(), tmp_path / "m.safetensors")
    with safe_open(tmp_path / "m.safetensors", "pt") as file:
        metadata = file.metadata()
    tensors = load_file(tmp_path / "m.safetensors")
    for name, change in {
        "davg": torch.nan, "dstd": 0.0, "out_bias": torch.inf, "fitting.layers.0.weight": -torch.inf,
        "type_embedding.weight": torch.nan,
    }.items():  # fmt: skip
        wrong = {**tensors, name: tensors[name].clone()}
        wrong[name].view(-1)[0] = change
        save_file(wrong, tmp_path / "n.safetensors", metadata)
        assert name in refused(tmp_path / "n.safetensors")
    for dtype in (torch.int64, torch.bool):
        save_file({**tensors, "out_bias": tensors["out_bias"].to(dtype)}, tmp_path / "n.safetensors", metadata)
        assert "floating point" in refused(tmp_path / "n.safetensors")


# --- the door ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [KeyError("x"), struct.error("x"), RecursionError(), pickle.UnpicklingError("x"), OSError("x")]
)
def test_what_a_parsing_library_raises_is_one_line_with_its_cause(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=type(error).__name__) as found, parsing.parsing(tmp_path, "a test"):
        raise error
    assert found.value.__cause__ is error


@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt(), NameError("x"), ImportError("x")])
def test_what_says_nothing_about_a_file_stays_itself(error: BaseException, tmp_path: Path) -> None:
    with pytest.raises(type(error)) as found, parsing.parsing(tmp_path, "a test"):
        raise error
    assert found.value is error


def test_an_error_of_the_system_is_not_called_damage(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="Input/output error") as found, parsing.parsing(tmp_path, "a test"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert not any(w in str(found.value) for w in DAMAGE)


def test_a_mistake_of_ours_is_not_blamed_on_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: Any) -> None:
        raise TypeError("ours")

    monkeypatch.setattr("dpa1_fast.checkpoint.deepmd.deepmd_name", mistaken)
    with pytest.raises(TypeError, match="ours"):
        read_model(DATA / "concat_hard.pt")


# --- writers -------------------------------------------------------------------------------------------------------

SUFFIXES = (".dp", ".yaml", ".safetensors")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_where_nothing_can_be_written_nothing_is_left(suffix: str, tmp_path: Path) -> None:
    model = make_model()
    (tmp_path / f"folder{suffix}").mkdir()
    (tmp_path / f"device{suffix}").symlink_to("/dev/full")
    wrong = {f"missing/m{suffix}": "no folder", f"folder{suffix}": "it is a folder", f"device{suffix}": "device"}
    before = sorted(tmp_path.rglob("*"))
    for name, word in {**wrong, f"{'x' * 300}{suffix}": "too long"}.items():
        with pytest.raises(ModelFileError, match=word):
            write_model(model, tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_is_full_leaves_what_was_there(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_bytes(b"before")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing.os, "fsync", full)
    with pytest.raises(ModelFileError, match="No space left on device"):
        write_model(make_model(), path)
    assert [p.read_bytes() for p in tmp_path.iterdir()] == [b"before"]


def test_a_link_stays_a_link_and_a_file_keeps_its_mode(tmp_path: Path) -> None:
    (tmp_path / "real.dp").touch(mode=0o600)
    (tmp_path / "link.dp").symlink_to("real.dp")
    write_model(make_model(), tmp_path / "link.dp")
    assert (tmp_path / "link.dp").is_symlink()
    assert (tmp_path / "real.dp").stat().st_mode & 0o777 == 0o600
    assert read_model(tmp_path / "real.dp").model.config == make_model().config
