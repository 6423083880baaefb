"""What stands in for what older versions of Triton lack is right on the newest one too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from triton.language import semantic
from triton.runtime.errors import InterpreterError

from dpa1_fast.kernels.triton import older_triton, ops


@triton.jit
def _product_kernel(a_ptr, b_ptr, c_ptr, DEEP: tl.constexpr, SHARED: tl.constexpr):
    here, deep, shared = tl.arange(0, 16), tl.arange(0, DEEP), tl.arange(0, SHARED)
    a = tl.load(a_ptr + here[:, None] * DEEP + deep[None, :])
    b = tl.load(b_ptr + shared[:, None] * 16 + here[None, :])
    at = c_ptr + here[:, None] * 16 + here[None, :]
    c = tl.load(at)
    tl.store(at, tl.dot(a, b.to(a.dtype), c, input_precision="ieee", out_dtype=c.dtype))


@pytest.fixture
def as_with_3_4(monkeypatch: pytest.MonkeyPatch) -> None:
    def refusing(self: object, lhs: tl.tensor, *rest: object) -> tl.tensor:
        assert lhs.dtype in (tl.float16, tl.float32), f"Unsupported lhs dtype {lhs.dtype}"
        return dot(self, lhs, *rest)

    dot = semantic.TritonSemantic.dot
    monkeypatch.setattr(semantic.TritonSemantic, "dot", refusing)
    older_triton._multiply_float64()


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float64, 1e-14), (torch.float32, 1e-5)])
def test_products_are_numpys(dtype: torch.dtype, limit: float, as_with_3_4: None) -> None:
    assert ops.INTERPRETED
    a, b, c = (torch.randn(size, dtype=dtype) for size in ((16, 32), (32, 16), (16, 16)))
    expected = a.numpy() @ b.numpy() + c.numpy()
    _product_kernel[(1,)](a, b, c, 32, 32)
    assert np.abs(c.numpy() - expected).max() < limit


@pytest.mark.parametrize(("shared", "sum_dtype"), [(16, torch.float64), (32, torch.float32)])
def test_what_does_not_fit_is_an_error_and_no_product(shared: int, sum_dtype: torch.dtype, as_with_3_4: None) -> None:
    a, b = torch.randn(16, 32, dtype=torch.float64), torch.randn(shared, 16, dtype=torch.float64)
    with pytest.raises(InterpreterError, match="no product of|equal reduction"):
        _product_kernel[(1,)](a, b, torch.zeros(16, 16, dtype=sum_dtype), 32, shared)


def test_it_is_put_there_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many times as modules of kernels are loaded."""
    monkeypatch.setattr(triton, "__version__", "3.4.0")
    dot = semantic.TritonSemantic.dot
    older_triton.mend(interpreted=True)
    assert semantic.TritonSemantic.dot is dot
