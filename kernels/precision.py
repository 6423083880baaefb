"""The precisions of the Triton kernels.

Environment matrix, energies and sums over edges are float64 in all; LayerNorm, softmax and what is kept between
products are ``WORK``. ``PRODUCTS`` says how matrix products are done: bfloat16 and float16 round the operands and sum
in float32; the others are Triton's names. ``float32`` is tf32x3, which has the errors of true float32; the energy
net's products are torch's, and true float32. What each precision costs in forces is in docs/precision.md.
"""

from __future__ import annotations

import torch

WORK = {
    "float64": torch.float64,
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.float32,
    "float16": torch.float32,
}
PRODUCTS = {"float64": "ieee", "float32": "tf32x3", "tf32": "tf32", "bfloat16": "bfloat16", "float16": "float16"}
OPERANDS = {**WORK, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""What the large weight matrices are stored in."""
