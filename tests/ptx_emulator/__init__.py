"""Runs the PTX that Triton compiles for NVIDIA cards on a CPU, warp by warp, and looks for data races between warps.

Where Triton's interpreter shows what the source says (``race_checker``), this shows what the compiler made of it: which
threads hold an element, what goes through shared memory, which barriers stand there.

``parser.py`` reads PTX; ``translator.py`` makes a Python function of each straight piece of it (``operands.py``,
``arithmetic.py``), which computes with arrays of 32, one element a thread. ``machine.py`` runs the warps of a program,
one at a time, in an order that a ``Schedule`` chooses, over ``global_memory.py``, ``shared_memory.py`` and
``wgmma.py``. ``races.py`` finds what another warp can see too early or too late: what is loaded although another warp
stored it since the last barrier reads as NaN, so that results tell whether it matters. ``kernels.py`` puts emulated
kernels where the evaluator finds its own, and ``evaluate.py`` evaluates whole batches with them.

What is not emulated: special functions to the last bit, time, fences of real hardware, machine code (SASS).
"""
