"""What a training is told: DeePMD-kit's input.json, our TOML, data of every kind; and which batches it makes."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write as ase_write
from conftest import BASE
from training import NAMES, labelled, periodic, write_data, write_json, write_lmdb, write_system, write_toml

from dpa1_fast.errors import StructureError
from dpa1_fast.train.batches import AtomOrder, SystemOrder
from dpa1_fast.train.command import read_options
from dpa1_fast.train.data import Dataset, elements
from dpa1_fast.train.options import Options, TrainingError
from dpa1_fast.train.prepare import freeze, new_model, prepare


def read(folder: Path, **changes: Any) -> Options:
    """The options of an input.json."""
    return read_options(write_json(folder, **changes))


def test_what_is_left_out_of_an_input_has_the_defaults_of_the_input_file(tmp_path: Path) -> None:
    path = tmp_path / "input.json"
    systems = {"systems": ["a"]}
    path.write_text(json.dumps({
        "model": {"type_map": ["O", "H"], "descriptor": {"type": "se_atten", "sel": 120}},
        "learning_rate": {}, "training": {"training_data": systems, "stop_batch": 10, "_note": "kept out"},
    }))  # fmt: skip
    o = read_options(path)
    c = o.model
    assert (c.rcut, c.rcut_smth, c.neuron, c.axis_neuron, c.attn_layer) == (6.0, 0.5, (10, 20, 40), 4, 2)
    assert (c.smooth_type_embedding, c.set_davg_zero, c.fitting.neuron) == (False, True, (120, 120, 120))
    assert (o.schedule.start_lr, o.schedule.stop_lr, o.schedule.decay_steps) == (1e-3, 1e-8, 5000)
    assert (o.loss.energy, o.loss.force, o.loss.virial) == ((0.02, 1.0), (1000.0, 1.0), (0.0, 0.0))
    assert (o.train.batch.rule, o.train.batch.size, o.statistics_batches) == ("auto", 32, 10)
    v2 = read(tmp_path, model__descriptor={"type": "se_atten_v2", "sel": [20, 30]}).model
    assert (v2.tebd_input_mode, v2.smooth_type_embedding, v2.set_davg_zero, v2.nsel) == ("strip", True, False, 50)
    dpa1 = read(tmp_path, model__descriptor={"type": "dpa1", "sel": "auto:1.5", "stripped_type_embedding": True})
    assert (dpa1.model.tebd_input_mode, dpa1.sel_auto) == ("strip", 1.5)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"model__descriptor__type": "se_e2_a"}, "se_e2_a"),
        ({"model__descriptor__type": "dpa2"}, "DPA-2"),
        ({"model__spin": {"use_spin": [True]}}, "spin"),
        ({"model__use_srtab": "table.txt"}, "zbl"),
        ({"model__fitting_net__type": "dipole"}, "dipole"),
        ({"model__descriptor__attn_mask": True}, "attn_mask"),
        ({"model__descriptor__rcutt": 6.0}, "model.descriptor.rcutt is not known; is it rcut?"),
        ({"model__descriptor__precision": "bfloat16"}, "training is done in float32 or float64"),
        ({"loss__start_pref_pf": 1.0}, "loss.start_pref_pf = 1.0 is not supported"),
        ({"loss__start_pref_h": 1.0}, "loss.start_pref_h"),
        ({"loss__enable_atom_ener_coeff": True}, "enable_atom_ener_coeff"),
        ({"loss__type": "ener_spin"}, "ener_spin"),
        ({"optimizer__type": "LKF"}, "LKF"),
        ({"optimizer__type": "HybridMuon"}, "use Adam, AdamW or Muon"),
        ({"learning_rate__type": "step"}, "known are exp, cosine, wsd"),
        ({"learning_rate__start_lr": -1.0}, "start_lr"),
        ({"training__acc_freq": 4}, "training.acc_freq = 4"),
        ({"training__zero_stage": 1}, "zero_stage"),
        ({"training__numb_steps": None}, "numb_steps is missing"),
        ({"training__training_data": {"systems": ["x"], "batch_size": "huge"}}, "batch_size is 'huge'"),
        ({"training__training_data": {"systems": ["x"], "min_pair_dist": 0.5}}, "min_pair_dist"),
        ({"training__training_data": {}}, "training.training_data.systems is missing"),
        ({"training__no_such": 1}, "training.no_such is not known"),
        ({"training__seed": -1}, "seed is -1; it must be at least 0"),
        ({"training__validation_data__numb_btch": 0}, "valid_batches (numb_btch) is 0"),
        ({"nvnmd": {}}, "nvnmd is not known"),
    ],
)
def test_what_is_not_supported_is_refused_by_its_name(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    with pytest.raises(TrainingError) as error:
        read(tmp_path, **change)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_a_seed_of_zero_is_one_of_its_own(tmp_path: Path) -> None:
    assert [read(tmp_path, training__seed=seed).seed for seed in (0, 1, None)] == [0, 1, 1]


@pytest.mark.parametrize("options", [{"sys_probs": [0.5, 0.5]}, {"auto_prob": "prob_uniform"}], ids=str)
def test_weights_of_systems_are_refused_where_systems_are_mixed(tmp_path: Path, options: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match="have no say where structures of all systems are mixed"):
        read(tmp_path, training__training_data={"systems": ["a", "b"], "batch_size": "mix:64", **options})
    read(tmp_path, training__training_data={"systems": ["a", "b"], "batch_size": "auto", **options})


def test_a_toml_is_checked_too(tmp_path: Path) -> None:
    source = write_toml(tmp_path)
    for old, new, told in (
        ("rcut = 4.0", "rcut = 4.0\nattn_layers = 2", "model.attn_layers is not known; is it attn_layer?"),
        ("rcut = 4.0", "", "rcut"),
        ("steps = 8", "", "training.steps is missing"),
        ("[loss]", "[los]", "los is not known"),
        ("display = 2", 'display = "often"', "it must be an integer"),
        ("virial = [0.1, 1.0]", "energy = 1", "loss.energy is 1; it must be a list of 2 numbers"),
        ("virial = [0.1, 1.0]", "energy = [1]", "it must be a list of 2 numbers"),
        ("virial = [0.1, 1.0]", 'energy = ["a", "b"]', "it must be a number"),
        ("virial = [0.1, 1.0]", "huber_delta = 0.01", "it must be a list of 3 numbers"),
        ("virial = [0.1, 1.0]", 'relative_force = "little"', "it must be a number"),
        ("decay_steps = 3", 'decay_rate = "fast"', "learning_rate.decay_rate is 'fast'; it must be a number"),
    ):
        text = source.read_text()
        (tmp_path / "other.toml").write_text(text.replace(old, new))
        with pytest.raises(TrainingError, match=told.replace("?", r"\?")):
            read_options(tmp_path / "other.toml")


def test_frozen_parts_of_an_input(tmp_path: Path) -> None:
    options = read(
        tmp_path, model__descriptor__trainable=False, model__fitting_net__trainable=[True, False, True],
        model__descriptor__trainable_ln=False,
    )  # fmt: skip
    model = new_model(options)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.startswith(("fitting.layers.0", "fitting.layers.2")) for name in trained)
    only_ln = new_model(read(tmp_path, model__descriptor__trainable_ln=False))
    frozen = {name for name, p in only_ln.named_parameters() if not p.requires_grad}
    assert frozen == {"attention.0.layer_norm.weight", "attention.0.layer_norm.bias"}
    with pytest.raises(TrainingError, match="nothing to train"):
        freeze(model, ("fitting", "embedding", "attention", "type_embedding"))


def test_every_kind_of_data_gives_the_same_samples(tmp_path: Path) -> None:
    from ase.calculators.singlepoint import SinglePointCalculator

    structures = periodic(4, 3)
    rows = labelled(structures)
    write_system(tmp_path / "npy", rows)
    with h5py.File(tmp_path / "data.hdf5", "w") as file:
        for name in ("type.raw", "type_map.raw"):
            words = (tmp_path / "npy" / name).read_text().split()
            file[f"a/{name}"] = [int(w) for w in words] if name == "type.raw" else words
        for part in (tmp_path / "npy" / "set.000").iterdir():
            file[f"a/set.000/{part.name}"] = np.load(part)
    for atoms, row in zip(structures, rows, strict=True):
        w = -row["virial"] / atoms.get_volume()
        voigt = w[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        atoms.calc = SinglePointCalculator(atoms, energy=float(row["energy"]), forces=row["force"], stress=voigt)
    ase_write(tmp_path / "data.extxyz", structures)
    write_lmdb(tmp_path / "lmdb", rows)
    want = Dataset(BASE, [str(tmp_path / "npy")]).samples
    for name in ("data.hdf5", "data.extxyz", "lmdb"):
        found = Dataset(BASE, [str(tmp_path / name)]).samples
        assert len(found) == 3
        for a, b in zip(want, found, strict=True):
            np.testing.assert_array_equal(a.structure.types, b.structure.types)
            assert a.energy == pytest.approx(b.energy, abs=1e-6)
            for x, y in ((a.force, b.force), (a.virial, b.virial), (a.structure.positions, b.structure.positions)):
                assert x is not None
                assert y is not None
                np.testing.assert_allclose(x, y, atol=2e-6)  # extxyz prints eight places
    assert elements([str(tmp_path / "npy")]) == tuple(NAMES)


def test_a_stress_counts_in_voigts_order_and_as_a_matrix(tmp_path: Path) -> None:
    row = labelled(periodic(4, 1))[0]
    (atoms,) = periodic(4, 1)
    stress = -row["virial"] / atoms.get_volume()
    voigt = stress.ravel()[[0, 4, 8, 5, 2, 1]]
    for k, told in enumerate((stress, voigt, voigt[:4])):
        atoms.calc = SinglePointCalculator(atoms, energy=0.0)
        atoms.calc.results["stress"] = told
        ase_write(tmp_path / f"{k}.traj", atoms)
    for k in range(2):
        (found,) = Dataset(BASE, [str(tmp_path / f"{k}.traj")]).samples
        np.testing.assert_allclose(found.virial, (row["virial"] + row["virial"].T) / 2, atol=1e-9)
    with pytest.raises(StructureError, match="the stress has 4 numbers; it must have 6 or 9"):
        Dataset(BASE, [str(tmp_path / "2.traj")])


def test_a_best_model_is_chosen_by_what_the_validation_data_has(tmp_path: Path) -> None:
    write_data(tmp_path)
    write_system(tmp_path / "bare", [{k: v for k, v in r.items() if k != "virial"} for r in labelled(periodic(4, 2))])
    text = write_toml(tmp_path, training='metric = "V:RMSE"').read_text().replace("virial = [0.1, 1.0]", "")
    for valid, refused in (("valid", False), ("bare", True)):
        (tmp_path / "other.toml").write_text(text.replace(f"{tmp_path}/valid", f"{tmp_path}/{valid}"))
        with pytest.raises(TrainingError, match="has no virials, so no model") if refused else nullcontext():
            prepare(read_options(tmp_path / "other.toml"))


def test_sel_and_types_come_from_the_data_where_nobody_says(tmp_path: Path) -> None:
    write_data(tmp_path)
    prepared = prepare(read_options(write_toml(tmp_path)))
    assert prepared.options.model.type_map == ("H", "C", "O")
    most = max(int(prepared.train.neighborhood(k).n_filled.max()) for k in range(len(prepared.train)))
    assert prepared.options.model.nsel == -(-int(1.1 * most) // 4) * 4


def test_batches_by_atoms_hold_every_structure_once_an_epoch_and_add_up(tmp_path: Path) -> None:
    atoms = np.random.default_rng(0).integers(1, 9, 57)
    order, double = AtomOrder(atoms, 16, 3), AtomOrder(atoms, 32, 3)
    for k in range(40):
        assert order(2 * k) + order(2 * k + 1) == double(k)
        assert order(k) == AtomOrder(atoms, 16, 3)(k)  # of nothing but its number
        assert order(k)
    row = [s for k in range(200) for s in order(k)]
    for epoch in range(3):
        assert sorted(row[57 * epoch : 57 * (epoch + 1)]) == list(range(57))
    assert row[:57] != row[57:114]
    assert abs(np.mean([atoms[order(k)].sum() for k in range(200)]) - 16) < 1
    assert AtomOrder(atoms, 16, 4)(0) != order(0)


def test_batches_by_system_take_every_frame_of_a_system_before_any_again(tmp_path: Path) -> None:
    members = [np.arange(7), np.arange(7, 10)]
    order = SystemOrder(members, [2, 5], np.array([3.0, 1.0]), 1)
    batches = [order(k) for k in range(3000)]
    assert [order(k) for k in (2999, 5, 1025)] == [batches[k] for k in (2999, 5, 1025)]
    assert SystemOrder(members, [2, 5], np.array([3.0, 1.0]), 1)(2999) == batches[2999]  # without those before
    first = [b for b in batches if b[0] < 7]
    assert all(len(b) == 2 for b in first)
    assert all(sorted(b) == [7, 8, 9] for b in batches if b[0] >= 7)  # a batch is no larger than its system
    row = [s for b in first for s in b]
    assert sorted(row[:7]) == sorted(row[7:14]) == list(range(7))
    assert len(first) / 3000 == pytest.approx(0.75, abs=0.03)


def test_the_input_in_the_documentation_is_one(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs" / "training.md").read_text().split("## An input of ours")[1]
    (tmp_path / "a.toml").write_text(text.split("```")[1].partition("\n")[2])
    options = read_options(tmp_path / "a.toml")
    assert options.train.batch.size == 256
    assert options.ema == 0.999
