"""Pickles as torch writes them, read as plain data: nothing is imported, called or built.

A pickle is a program for a small stack machine. torch and TorchScript use some thirty of its instructions, and few
names. This reads those instructions with ``pickletools``; a module becomes a ``Box``, a tensor a ``TensorRecord``, and
any other instruction or name is refused. Memory is bounded by the number of instructions.
"""

from __future__ import annotations

import itertools
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

from ..errors import ModelFileError
from .parsing import clipped, parsing

STEPS = 1_000_000
"""Most instructions of one pickle. DeePMD-kit's largest need some ten thousand."""
UNSAFE = "keep the state dict only: torch.save(torch.load(f)['model'], g) where you trust it"
DTYPES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
}  # fmt: skip


class Global(NamedTuple):
    """A name that the pickle mentions. It is never looked up."""

    module: str
    name: str


class StorageRecord(NamedTuple):
    """Numbers that stand elsewhere in the file."""

    dtype: str
    key: str
    numel: int


class TensorRecord(NamedTuple):
    """A view of a storage, not read yet."""

    storage: StorageRecord
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Box:
    """An object of the archive: its class's name and its attributes, nothing that runs."""

    def __init__(self, class_name: str) -> None:
        self.class_name = class_name
        self.attributes: dict[str, Any] = {}


class UnsupportedPickleError(Exception):
    """An instruction that torch does not write there; the message says which."""


def load(path: Path, file: IO[bytes]) -> Any:
    """What one pickle holds, as plain data. The file is left behind the pickle.

    Raises:
        ModelFileError: the pickle is damaged, endless, or names something that could run code.
    """
    with parsing(path, "a pickle of torch"):
        steps = list(itertools.islice(pickletools.genops(file), STEPS + 1))
    if len(steps) > STEPS:
        raise ModelFileError(path, f"holds a pickle of more than {STEPS:,} steps", "no model has; do not use it")
    machine = _Machine(path)
    try:
        for opcode, argument, _ in steps[:-1]:  # the last is STOP
            machine.do(opcode.name, argument)
        return machine.stack[-1]
    except (UnsupportedPickleError, IndexError, KeyError, ValueError) as error:
        told = f"holds a pickle that torch would not write ({clipped(str(error), 80) or type(error).__name__})"
        raise ModelFileError(
            path, told, "it is damaged, or made by something else: copy or download it again"
        ) from error


class _Machine:
    """The stack, the marks and the memo of a pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(_VALUES[name](argument))
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        else:
            raise UnsupportedPickleError(f"instruction {name}")

    def pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def put(self, index: int | None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    def tuple_of(self, count: int | None) -> None:
        if count is None:
            items = self.pop_mark()
        else:
            if len(self.stack) < count:
                raise UnsupportedPickleError("a tuple of nothing")
            items = self.stack[len(self.stack) - count :]
            del self.stack[len(self.stack) - count :]
        self.stack.append(tuple(items))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise UnsupportedPickleError("an append to no list")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise UnsupportedPickleError("an item of no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def name(self, argument: str) -> None:
        found = Global(*argument.split(" ", 1))
        if not _known(found):
            told = f"names Python objects that could run code when opened ({clipped('.'.join(found), 80)})"
            raise ModelFileError(self.path, told, UNSAFE)
        self.stack.append(found)

    def call(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        self.stack.append(_called(function, arguments))

    def new(self, _: Any) -> None:
        self.stack.pop()
        kind = self.stack.pop()
        if not isinstance(kind, Global):
            raise UnsupportedPickleError("an object of no class")
        self.stack.append(Box(kind.name))

    def build(self, _: Any) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Box) and type(state) is dict:
            target.attributes = state
        elif type(target) is not dict:  # an OrderedDict's own attributes (_metadata) are of no use
            raise UnsupportedPickleError("a state of no object")

    def storage(self, _: Any) -> None:
        pid = self.stack.pop()
        if not (type(pid) is tuple and len(pid) in (5, 6) and pid[0] == "storage" and isinstance(pid[1], Global)):
            raise UnsupportedPickleError("a reference to something that is no storage")
        kind, key, count = pid[1].name, pid[2], pid[4]
        if kind not in DTYPES or type(key) is not str or not _count(count) or (len(pid) == 6 and pid[5] is not None):
            raise UnsupportedPickleError("a storage of an unknown kind")
        self.stack.append(StorageRecord(DTYPES[kind], key, count))


def _key(key: Any) -> Any:
    if isinstance(key, (str, int, float, bool)) or key is None:
        return key
    if type(key) is tuple and all(isinstance(x, (str, int)) for x in key):
        return key
    raise UnsupportedPickleError("a key that is neither text nor number")


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _known(found: Global) -> bool:
    if found.module.split(".")[0] == "__torch__":
        return True
    if found.module == "torch":
        return found.name in DTYPES or found.name in ("device", "Size") or found.name in DTYPES.values()
    if found.module == "torch.jit._pickle":
        return found.name.startswith("build_") or found.name == "restore_type_tag"
    names = {"torch._utils": ("_rebuild_tensor_v2", "_rebuild_parameter"), "collections": ("OrderedDict",)}
    return found.name in names.get(found.module, ())


def _called(function: Any, arguments: Any) -> Any:
    """What a call of one of the known names stands for."""
    if not isinstance(function, Global) or type(arguments) is not tuple:
        raise UnsupportedPickleError("a call of something else than a name")
    if function.name == "_rebuild_tensor_v2":
        return _tensor(*arguments[:4])
    if function.name == "OrderedDict":
        pairs = arguments[0] if arguments else []
        if type(pairs) is not list or not all(type(p) in (list, tuple) and len(p) == 2 for p in pairs):
            raise UnsupportedPickleError("a dictionary of something else than pairs")
        return {_key(k): v for k, v in pairs}
    if function.name.startswith("build_") or function.name in ("restore_type_tag", "_rebuild_parameter"):
        return arguments[0]
    return Box(function.name)


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any) -> TensorRecord:
    sound = isinstance(storage, StorageRecord) and _count(offset) and type(shape) is tuple and type(stride) is tuple
    if not sound or len(shape) != len(stride) or len(shape) > 8 or not all(map(_count, (*shape, *stride))):
        raise UnsupportedPickleError("a tensor of no shape")
    count = 1
    for n in shape:
        count *= n
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True)) if count else -1
    if last >= storage.numel or count > storage.numel:
        raise UnsupportedPickleError("a tensor that reaches past its storage")
    return TensorRecord(storage, offset, shape, stride)


_VALUES: dict[str, Callable[[Any], Any]] = {
    "NONE": lambda _: None, "NEWTRUE": lambda _: True, "NEWFALSE": lambda _: False,
    "BININT": lambda x: x, "BININT1": lambda x: x, "BININT2": lambda x: x, "LONG1": lambda x: x, "INT": lambda x: x,
    "BINFLOAT": lambda x: x, "BINUNICODE": lambda x: x, "SHORT_BINUNICODE": lambda x: x, "SHORT_BINBYTES": lambda x: x,
    "BINBYTES": lambda x: x, "EMPTY_LIST": lambda _: [], "EMPTY_DICT": lambda _: {}, "EMPTY_TUPLE": lambda _: (),
}  # fmt: skip
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": lambda _m, _a: None, "FRAME": lambda _m, _a: None,
    "MARK": _Machine.mark, "PUT": _Machine.put, "BINPUT": _Machine.put, "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put, "GET": _Machine.get, "BINGET": _Machine.get, "LONG_BINGET": _Machine.get,
    "TUPLE": lambda m, _: m.tuple_of(None), "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2), "TUPLE3": lambda m, _: m.tuple_of(3),
    "APPEND": lambda m, _: m.append([m.stack.pop()]), "APPENDS": lambda m, _: m.append(m.pop_mark()),
    "SETITEM": lambda m, _: m.set_items([m.stack.pop(-2), m.stack.pop()]),
    "SETITEMS": lambda m, _: m.set_items(m.pop_mark()),
    "GLOBAL": _Machine.name, "REDUCE": _Machine.call, "NEWOBJ": _Machine.new, "BUILD": _Machine.build,
    "BINPERSID": _Machine.storage,
}  # fmt: skip
