"""``dpa1-fast finetune`` and ``change-bias``: a model goes on from where it is, with more elements and few samples."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BASE, DATA, make_model, molecule
from kernel_cases import random_model
from training import labelled, periodic, write_data, write_system

from dpa1_fast import DPA1, Engine
from dpa1_fast.checkpoint import read_model, write_model
from dpa1_fast.errors import DPA1Error
from dpa1_fast.train.bias import set_bias, shift_bias
from dpa1_fast.train.checkpoint import newest
from dpa1_fast.train.data import Dataset
from dpa1_fast.train.extend import extended
from dpa1_fast.train.finetune import FinetuneOptions, begin, default_length, rate_for, steps_for
from dpa1_fast.train.finetune_command import change_bias_command, finetune_command
from dpa1_fast.train.input_toml import read_settings
from dpa1_fast.train.options import TrainingError
from dpa1_fast.train.similar import place, shares
from dpa1_fast.train.statistics import energy_bias, shrunk_shift
from dpa1_fast.uncertainty import Uncertainty


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data with the teacher's labels, and the teacher as a file."""
    folder = tmp_path_factory.mktemp("data")
    write_data(folder)
    write_model(make_model(), folder / "teacher.safetensors")
    return folder


def finetune(model: Path, data: Path, output: Path, steps: int = 4, **tuning: object) -> DPA1:
    """A few steps; the model as its file has it."""
    options = FinetuneOptions(**tuning)  # type: ignore[arg-type]
    changes = {"steps": steps, "batch_atoms": 16}
    train = (str(data / "train"),)
    finetune_command(
        str(model), None, train, (), None, changes, options, output, "cpu", "auto", 1, False, True
    )  # fmt: skip
    return read_model(output / "model.safetensors").model


def test_places_in_the_periodic_table() -> None:
    told = {"H": (1, 1), "He": (1, 18), "Li": (2, 1), "B": (2, 13), "Ne": (2, 18), "K": (4, 1), "Sc": (4, 3),
            "Zn": (4, 12), "Ga": (4, 13), "Kr": (4, 18), "Cs": (6, 1), "La": (6, 3), "Hf": (6, 4), "Pt": (6, 10),
            "Pb": (6, 14), "Rn": (6, 18), "Og": (7, 18)}  # fmt: skip
    assert {symbol: place(symbol) for symbol in told} == told
    assert 3 < place("Gd")[1] < 4


def test_new_elements_are_like_their_neighbours() -> None:
    known = ["H", "Na", "Rb", "Fe", "O", "Ni"]
    for way in ("neighbors", "electrons"):
        assert shares("K", known, way).sum() == pytest.approx(1)
        assert shares("Co", known, way)[[known.index("Fe"), known.index("Ni")]].sum() > 0.9
    assert shares("K", known, "neighbors")[[known.index("Na"), known.index("Rb")]].sum() > 0.7
    assert shares("OW", known, "neighbors") == pytest.approx(np.full(6, 1 / 6))


@pytest.mark.parametrize(
    "options", [{}, {"tebd_dim": 3}, {"tebd_dim": 4, "use_tebd_bias": True}, {"tebd_dim": 6}, {"tebd_dim": 8},
                {"use_econf_tebd": True}], ids=str,
)  # fmt: skip
def test_a_model_with_more_types_is_the_same_for_those_it_had(options: dict[str, object]) -> None:
    # Where the width of the embedding equals the number of types, or twice it, a one-hot is added to it.
    model = make_model(**options)
    more = extended(model, ("N",), "neighbors")
    assert more.config.type_map == ("H", "C", "O", "N")
    atoms = [molecule(7, 1), *periodic(4, 2)]
    for a, b in zip(*(Engine(m, precision="float64").evaluate(atoms) for m in (model, more)), strict=True):
        assert a.energy == pytest.approx(b.energy, abs=1e-11)
        np.testing.assert_allclose(a.forces, b.forces, atol=1e-11)
    table, new = model.type_table(), more.type_table()
    if not options.get("use_econf_tebd"):
        assert (new[3] >= table.min(0).values - 1e-12).all()
        assert (new[3] <= table.max(0).values + 1e-12).all()


def test_the_bias_is_what_energies_lack(data: Path) -> None:
    model = make_model()
    samples = Dataset(model.config, [str(data / "train")])
    extra = np.array([0.3, -1.2, 2.5])
    samples.samples = [
        replace(s, energy=(s.energy or 0.0) + float(extra[s.structure.types].sum())) for s in samples.samples
    ]
    before = model.out_bias.clone()
    wrong, right = shift_bias(model, samples, range(len(samples)))
    assert wrong > 0.1
    assert right < 1e-10
    np.testing.assert_allclose((model.out_bias - before).numpy(), extra, atol=1e-9)
    set_bias(model, samples, range(len(samples)))
    assert not model.fitting.bias_atom_e.any()
    counts, energies = samples.compositions(), np.array([s.energy for s in samples.samples])
    np.testing.assert_allclose(model.out_bias.numpy(), np.linalg.lstsq(counts, energies, rcond=None)[0], atol=1e-9)


def test_finetuning_learns_a_new_element(data: Path, tmp_path: Path) -> None:
    names = ["H", "C", "N"]  # what the teacher calls O is N here
    rows = labelled(periodic(4, 6, 300))
    write_system(tmp_path / "train" / "4", rows, names=names)
    model = finetune(data / "teacher.safetensors", tmp_path, tmp_path / "out", steps=3)
    assert model.config.type_map == ("H", "C", "O", "N")
    assert read_model(tmp_path / "out" / "model.dp").model.config.ntypes == 4
    teacher = make_model()
    assert not torch.equal(model.embedding[0].weight, teacher.embedding[0].weight)  # type: ignore[union-attr]
    torch.testing.assert_close(model.davg[:3], teacher.davg)  # statistics of what it knew are kept
    torch.testing.assert_close(model.dstd[:3], teacher.dstd)
    assert not torch.equal(model.dstd[3], teacher.dstd[2])  # and made for what is new


def test_frozen_layers_stay_and_factors_scale_the_rest(data: Path, tmp_path: Path) -> None:
    teacher = read_model(data / "teacher.safetensors").model
    model = finetune(data / "teacher.safetensors", data, tmp_path / "a", freeze=("descriptor", "fitting.layers.0"))
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, dict(teacher.named_parameters())[n])}
    assert moved
    assert all(name.startswith(("fitting.layers.1", "fitting.layers.2")) for name in moved)
    slow = finetune(data / "teacher.safetensors", data, tmp_path / "b", steps=1, factors=(("descriptor", 0.01),))
    before = dict(teacher.named_parameters())
    step = {n: float((p - before[n]).abs().max().detach()) for n, p in slow.named_parameters()}
    assert 0 < step["embedding.0.weight"] < 0.02 * step["fitting.layers.0.weight"]
    with pytest.raises(TrainingError, match="no parameter's name begins with 'descriptors'"):
        finetune(data / "teacher.safetensors", data, tmp_path / "c", freeze=("descriptors",))


def test_a_factor_on_nothing_and_one_that_leads_uphill_are_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="--lr-factor: no parameter's name begins with 'embeding'"):
        finetune(data / "teacher.safetensors", data, tmp_path / "a", factors=(("embeding", 0.1),))
    for factor in (-1.0, np.nan, np.inf):
        with pytest.raises(TrainingError, match="at least 0"):
            FinetuneOptions(factors=(("embedding", factor),))


def test_adapters_train_few_numbers_and_files_have_them_merged(data: Path, tmp_path: Path) -> None:
    teacher = read_model(data / "teacher.safetensors").model
    model = finetune(data / "teacher.safetensors", data, tmp_path / "out", steps=3, lora=1)
    state = newest(tmp_path / "out" / "checkpoints")
    assert state is not None
    name = "fitting.layers.0.parametrizations.weight"
    original, a, b = (state["model"][f"{name}.{x}"] for x in ("original", "0.a", "0.b"))
    assert torch.equal(original.double(), teacher.fitting.layers[0].weight)  # type: ignore[union-attr]
    assert b.any()
    torch.testing.assert_close(model.fitting.layers[0].weight, (original + a @ b).double())  # type: ignore[union-attr]
    # Started again when it is done, it leaves the same file: what a checkpoint holds is all there is.
    one = (tmp_path / "out" / "model.safetensors").read_bytes()
    finetune(data / "teacher.safetensors", data, tmp_path / "out", steps=3, lora=1)
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == one


def test_finetuning_goes_on_only_from_the_same_model_and_choices(data: Path, tmp_path: Path) -> None:
    finetune(data / "teacher.safetensors", data, tmp_path / "out", steps=2)
    with pytest.raises(TrainingError, match="training of other options"):
        finetune(data / "teacher.safetensors", data, tmp_path / "out", steps=2, freeze=("attention",))
    write_model(random_model(replace(BASE, attn_layer=1)), tmp_path / "other.safetensors")
    with pytest.raises(TrainingError, match="training of other options"):
        finetune(tmp_path / "other.safetensors", data, tmp_path / "out", steps=2)


def test_a_finetuned_model_does_not_keep_the_uncertainty_of_what_it_was(data: Path, tmp_path: Path) -> None:
    teacher = read_model(data / "teacher.safetensors").model
    shapes = Uncertainty.shapes(teacher.config.ntypes, teacher.dim_hidden)
    teacher.uncertainty = Uncertainty.of({name: torch.ones(shape) for name, shape in shapes.items()})
    write_model(teacher, tmp_path / "calibrated.safetensors")
    assert finetune(tmp_path / "calibrated.safetensors", data, tmp_path / "out", steps=1).uncertainty is None


def test_data_and_validation_data_are_named_each_by_itself(tmp_path: Path) -> None:
    def named(text: str, *given: tuple[str, ...]) -> list[tuple[str, ...] | None]:
        (tmp_path / "settings.toml").write_text(text)
        options = read_settings(tmp_path / "settings.toml", BASE, *given, lambda _: (300, 1e-4))
        return [None if x is None else x.systems for x in (options.train, options.valid)]

    both = '[data]\ntrain = ["a"]\nvalid = ["b"]\n'
    assert named(both, (), ()) == [("a",), ("b",)]
    assert named(both, ("c",), ()) == [("c",), ("b",)]
    assert named(both, (), ("d",)) == [("a",), ("d",)]
    assert named(both, ("c",), ("d",)) == [("c",), ("d",)]
    assert named("", ("c",), ()) == [("c",), None]
    with pytest.raises(TrainingError, match="no data is named; give DATA"):
        named("", (), ("d",))


def test_a_warm_up_is_held_against_the_steps_that_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text("[learning_rate]\nwarmup_steps = 500\n")
    given = tmp_path / "settings.toml", BASE, ("data",), (), lambda _: (300, 1e-4)
    with pytest.raises(TrainingError, match="fewer than all 300"):
        read_settings(*given)
    assert read_settings(*given, 1000).steps == 1000


def test_the_model_that_a_finetuning_begins_with_is_not_written_over(data: Path, tmp_path: Path) -> None:
    shutil.copy(data / "teacher.safetensors", tmp_path / "model.safetensors")
    before = (tmp_path / "model.safetensors").read_bytes()
    with pytest.raises(TrainingError, match="written over this one; choose another --output"):
        finetune(tmp_path / "model.safetensors", data, tmp_path, steps=1)
    assert (tmp_path / "model.safetensors").read_bytes() == before


def test_a_head_of_a_multi_task_checkpoint(tmp_path: Path) -> None:
    model = DATA / "two_heads.pt"
    rows = labelled(periodic(4, 3))
    for row in rows:
        row["real_atom_types"] = row["real_atom_types"] % 2
    write_system(tmp_path / "train" / "4", rows, names=["O", "H"])
    given = (str(tmp_path / "train"),), (), None, {"steps": 1}, FinetuneOptions()
    rest = (tmp_path / "out", "cpu", "auto", 1, False, True)
    with pytest.raises(DPA1Error, match="liquid"):
        finetune_command(str(model), None, *given, *rest)
    finetune_command(str(model), "vapour", *given, *rest)
    assert read_model(tmp_path / "out" / "model.dp").model.config.fitting.neuron == (12,)
    # A training of the other head, which may be of the same shapes, is another one.
    assert len({begin(str(model), head, given[0], "neighbors").digest for head in ("liquid", "vapour")}) == 2


def test_change_bias_alone(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, target = str(data / "teacher.safetensors"), tmp_path / "new.dp"
    train = (str(data / "train"),)
    assert change_bias_command(source, None, (), target, "shift", "H=-3.5, O=1", "auto") == 0
    model = read_model(target).model
    assert model.out_bias.tolist()[::2] == [-3.5, 1.0]
    capsys.readouterr()
    assert change_bias_command(str(target), None, train, tmp_path / "back.safetensors", "shift", "", "auto") == 0
    assert "12 structures: RMSE of the model" in capsys.readouterr().out
    teacher, back = read_model(source).model, read_model(tmp_path / "back.safetensors").model
    bias = (teacher.out_bias + teacher.fitting.bias_atom_e).numpy()
    np.testing.assert_allclose((back.out_bias + back.fitting.bias_atom_e).numpy(), bias, atol=1e-4)  # float32 nets
    for told, arguments in {
        "give data": ((), "shift", ""),
        "names N": ((), "shift", "N=1"),
        "not NAME=ENERGY": ((), "shift", "H:1"),
        "'O=nan' is not NAME=ENERGY": ((), "shift", "H=1,O=nan"),
        "not both": (train, "shift", "H=1"),
    }.items():
        with pytest.raises(TrainingError, match=told):
            change_bias_command(source, None, arguments[0], target, arguments[1], arguments[2], "auto")


def test_few_samples_are_not_trained_on_for_long(data: Path) -> None:
    # 20 steps a structure, from 300 to 3,000; a first rate of 1e-4 times the root of their number, at most 1e-3.
    assert [steps_for(n) for n in (1, 15, 30, 150, 10**6)] == [300, 300, 600, 3000, 3000]
    assert [rate_for(n) for n in (1, 25, 100, 10**6)] == pytest.approx([1e-4, 5e-4, 1e-3, 1e-3])
    systems = (str(data / "train"),)
    count = len(Dataset(make_model().config, systems))
    assert default_length(systems) == (steps_for(count), rate_for(count))


def test_few_structures_do_not_shift_a_model_that_is_right() -> None:
    # Alloys whose labels are right to 20 meV an atom: plain least squares takes noise for energies of elements.
    errors = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        counts = rng.multinomial(12, [0.4, 0.3, 0.3], size=8).astype(float)
        noise = 12 * rng.normal(scale=0.02, size=8)
        others = rng.multinomial(12, [0.1, 0.1, 0.8], size=50) / 12
        errors.append([np.mean((others @ shift(counts, noise)) ** 2) for shift in (shrunk_shift, energy_bias)])
    shrunk, plain = np.sqrt(np.mean(errors, axis=0))
    assert shrunk < 0.6 * plain
    # Labels that count from other zeros are followed as far as by least squares.
    zeros = np.array([-3.0, 5.0, 0.7])
    assert np.allclose(shrunk_shift(counts, counts @ zeros), zeros, atol=1e-9)
    found = shrunk_shift(counts, counts @ zeros + noise)
    assert np.abs(found - energy_bias(counts, counts @ zeros + noise)).max() < 0.02
    # An element that no structure has keeps its energy; a single structure is met.
    assert shrunk_shift(np.array([[4.0, 0.0]]), np.array([8.0])).tolist() == pytest.approx([2.0, 0.0])
