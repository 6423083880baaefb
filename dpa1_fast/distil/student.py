"""What a student is, and how it is trained unless somebody says otherwise."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..config import DPA1Config, FittingConfig
from ..train.data import elements
from ..train.options import BatchOptions, DataOptions, LossOptions, Options, ScheduleOptions
from .label import TRAIN, VALID

STEPS = 6000
AXIS, WIDEST = 8, 64
"""Largest axis_neuron, and widest layer of the energy net, that a student has unless somebody says otherwise."""


def student_config(teacher: DPA1Config, present: tuple[str, ...]) -> DPA1Config:
    """No attention, and a type factor of its own (strip), so that a neighbour costs one series in its distance.

    The cut-off is the teacher's, the types are those that are there. Widths are half of the teacher's embedding, and an
    energy net no wider than ``WIDEST``: without attention most of the time goes there.
    """
    neuron = tuple(max(1, width // 2) for width in teacher.neuron)
    return replace(
        teacher,
        neuron=neuron,
        axis_neuron=min(teacher.axis_neuron, neuron[-1], AXIS),
        type_map=tuple(name for name in teacher.type_map if name in present),
        attn_layer=0,
        tebd_input_mode="strip",
        smooth_type_embedding=True,
        set_davg_zero=True,
        exclude_types=(),
        pair_exclude_types=(),
        atom_exclude_types=(),
        use_econf_tebd=False,
        precision="float32",
        fitting=FittingConfig(
            neuron=tuple(min(width, WIDEST) for width in teacher.fitting.neuron),
            activation_function=teacher.fitting.activation_function,
            precision="float32",
        ),
    )


def defaults(teacher: DPA1Config, labels: Path, virials: bool, seed: int, origin: str) -> Options:
    """The training of a student on a folder of labels, with virials or without."""
    train, valid = ((str(labels / name),) for name in (TRAIN, VALID))
    return Options(
        model=student_config(teacher, elements(train)),
        train=DataOptions(train, BatchOptions("atoms", 192)),
        valid=DataOptions(valid, BatchOptions("atoms", 192), 2),
        loss=LossOptions(
            energy=(5.0, 50.0), force=(10.0, 5.0), virial=(0.05, 0.1) if virials else (0.0, 0.0), intensive=True
        ),
        schedule=ScheduleOptions(kind="cosine", start_lr=3e-3, stop_lr=1e-6),
        steps=STEPS,
        seed=seed,
        display=100,
        save=500,
        validate=500,
        keep=2,
        clip=10.0,
        ema=0.999,
        metric="F:RMSE",
        origin=origin,
    )
