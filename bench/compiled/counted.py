"""What is counted of a kernel: its products, and the bytes that they take from where."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from bench.compiled.estimate_instructions import Loop


@dataclass
class Work:
    """For one atom: products (m, n, k) → how many, bytes to and from L2, global bytes, and the least of them.

    ``runs``: programs. ``phases``: how often each loop of a program runs, and those inside it; None where nobody has
    said, or where compilers make other loops of them: instructions are then counted from products.
    """

    dots: Counter[tuple[int, int, int]] = field(default_factory=Counter)
    l2: float = 0.0
    dram: float = 0.0
    minimum: float = 0.0
    runs: float = 1.0
    phases: list[Loop] | None = None

    def product(self, m: int, n: int, k: int, times: float, a: float = 0, b: float = 0) -> None:
        """``times`` products whose operands are a and b bytes an element from memory, 0 where they are on chip."""
        self.dots[m, n, k] += times  # type: ignore[assignment] # of floats
        self.l2 += times * (m * k * a + k * n * b)

    def array(self, elements: float, size: int, needed: float | None = None) -> None:
        """An array that is read or written once; ``needed``: elements that count, all unless told."""
        self.dram += elements * size
        self.minimum += (elements if needed is None else needed) * size


@dataclass(frozen=True)
class Sizes:
    """Bytes of an element: of what is kept between products, of what only they read, of a layer's input, and of what
    stands for keys in the products of pairs of neighbours."""

    work: int
    operand: int
    g: int
    key: int
