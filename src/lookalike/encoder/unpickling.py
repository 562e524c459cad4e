"""Reads pickles without running code: a small stack machine that never imports or calls what a pickle names.

Python's own unpickler imports names and calls them, and even with ``find_class`` overridden it allocates the memory
that a file demands. Here each operation only moves plain values, and a name in the file stays a name:

    operation      GLOBAL                          EMPTY_TUPLE   REDUCE   MARK, key, value   SETITEMS
    top of stack   Name(collections.OrderedDict)   ()            {}       key, value         {key: value}
"""

import pickletools
import struct
from collections.abc import Callable, Iterable
from typing import Any

from lookalike.encoder.inert import DamagedFileError, Inert, Name, emulate_call, safe_key, set_state

_MAX_OPERATIONS = 5_000_000  # some ten seconds and half a gigabyte; a checkpoint of 1,000 tensors has 50,000
_LINE_LENGTH = 200  # bytes in which the end of a line is looked for first
# A pickle can demand copies of one value without end. Its calls may copy so many elements, plus 8 per byte of the file.
_MIN_COPIES = 1 << 20
_COPIES_PER_BYTE = 8


class Stream:
    """A file-like reader over bytes in memory.

    Args:
        content: All bytes.
    """

    def __init__(self, content: bytes | memoryview) -> None:
        self._content = memoryview(content)
        self._size = len(content)
        self.position = 0

    def __len__(self) -> int:
        return self._size

    def read(self, n: int) -> bytes:
        """Returns the next ``n`` bytes, or fewer at the end."""
        end = min(self.position + max(n, 0), self._size)
        data = bytes(self._content[self.position : end])
        self.position = end
        return data

    def readline(self) -> bytes:
        """Returns the next line, with its line break."""
        length = _LINE_LENGTH
        while True:
            end = bytes(self._content[self.position : self.position + length]).find(b"\n")
            if end >= 0:
                return self.read(end + 1)
            if self.position + length >= self._size:
                raise DamagedFileError("it ends within a line")
            length *= 16


def unpickle(
    stream: Stream,
    persistent: Callable[[Any], Any] | None = None,
    nested_storage: Callable[[bytes], Any] | None = None,
) -> Any:
    """Reads one pickle.

    Args:
        stream: The bytes; reading starts at its position and ends after the pickle.
        persistent: Returns the object that the file keeps outside of the pickle under an identifier.
        nested_storage: Reads a torch storage from bytes inside the pickle, where Python's ``pickle.dump`` puts tensors.

    Returns:
        Plain values and ``StoredTensor``s; ``Name`` for everything that the pickle would import, and ``Inert`` for
        everything that it would call.

    Raises:
        DamagedFileError: If it is no pickle, or damaged.
    """
    machine = _Machine(persistent, nested_storage, _COPIES_PER_BYTE * len(stream) + _MIN_COPIES)
    try:
        for opcode, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]
            machine.step(opcode.name, argument)
    except DamagedFileError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, struct.error) as error:
        raise DamagedFileError(f"its pickle is damaged ({type(error).__name__} at byte {stream.position:,})") from error
    return machine.result


_SIZED = (str, bytes, bytearray, list, tuple, dict)


class _Machine:
    """The state while a pickle is read: a stack, the marks on it, and the memo of numbered values."""

    def __init__(
        self,
        persistent: Callable[[Any], Any] | None,
        nested_storage: Callable[[bytes], Any] | None,
        copies_left: int,
    ) -> None:
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._persistent = persistent
        self._nested_storage = nested_storage
        self._copies_left = copies_left
        self._steps = 0
        self.result: Any = None

    def step(self, name: str, argument: Any) -> None:
        """Executes one operation."""
        self._steps += 1
        if self._steps > _MAX_OPERATIONS:
            raise DamagedFileError(f"it has more than {_MAX_OPERATIONS:,} values")
        if name in _LITERALS:
            self._stack.append(argument)
            return
        operation = _OPERATIONS.get(name)
        if operation is None:
            raise DamagedFileError(f"its pickle has the operation {name}, which no checkpoint needs")
        operation(self, argument)

    def _pop(self) -> Any:
        return self._stack.pop()

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _mark(self, _: Any) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _above_mark(self) -> list[Any]:
        above, self._stack = self._stack, self._marks.pop()
        return above

    def _drop_marked(self) -> None:
        self._above_mark()

    def _pop_or_unmark(self, _: Any) -> None:
        if self._stack:
            self._stack.pop()
        else:
            self._drop_marked()

    def _tuple(self, n: int) -> None:
        if len(self._stack) < n:
            raise IndexError
        items = tuple(self._stack[len(self._stack) - n :])
        del self._stack[len(self._stack) - n :]
        self._stack.append(items)

    def _dictionary(self, _: Any) -> None:
        items = dict(_pairs(self._above_mark()))
        self._stack.append(items)

    def _append(self, values: Iterable[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Inert):
            target = target.elements
        if isinstance(target, list):
            target.extend(values)

    def _set_items(self, flat: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Inert):
            target = target.items
        if isinstance(target, dict):
            target.update(_pairs(flat))

    def _set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        self._set_items([key, value])

    def _memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def _put(self, number: int) -> None:
        self._memo[number] = self._stack[-1]

    def _get(self, number: int) -> None:
        self._stack.append(self._memo[number])

    def _global(self, module_and_name: str) -> None:
        module, _, name = module_and_name.partition(" ")
        self._stack.append(Name(module, name))

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise TypeError
        self._stack.append(Name(module, name))

    def _call(self, _: Any) -> None:
        args, called = self._pop(), self._pop()
        self._stack.append(self._emulate(called, args))

    def _emulate(self, called: Any, args: Any) -> Any:
        self._count_copies(args)
        if self._nested_storage is not None and isinstance(called, Name) and called.name == "_load_from_bytes":
            data = args[0] if isinstance(args, tuple) and len(args) == 1 else None
            if isinstance(data, bytes | bytearray):
                return self._nested_storage(bytes(data))
        return emulate_call(called, args)

    def _count_copies(self, values: Any) -> None:
        """Subtracts the elements that a call may copy from its arguments."""
        if isinstance(values, tuple):
            self._copies_left -= sum(len(value) for value in values if isinstance(value, _SIZED))
        if self._copies_left < 0:
            raise DamagedFileError("its pickle asks for more copies of its values than any checkpoint needs")

    def _call_with_named(self, _: Any) -> None:
        named_args, args, called = self._pop(), self._pop(), self._pop()
        result = self._emulate(called, args)
        if isinstance(result, Inert) and isinstance(named_args, dict):
            result.items.update(named_args)
        self._stack.append(result)

    def _instance(self, module_and_name: str) -> None:
        args = tuple(self._above_mark())
        self._global(module_and_name)
        called = self._pop()
        self._stack.append(self._emulate(called, args))

    def _object(self, _: Any) -> None:
        called, *args = self._above_mark()
        self._stack.append(self._emulate(called, tuple(args)))

    def _build(self, _: Any) -> None:
        state = self._pop()
        self._count_copies(state)
        self._stack[-1] = set_state(self._stack[-1], state)

    def _persistent_id(self, identifier: Any) -> None:
        self._stack.append(Inert(Name("", "persistent")) if self._persistent is None else self._persistent(identifier))

    def _stop(self, _: Any) -> None:
        self.result = self._pop()


def _pairs(flat: list[Any]) -> Iterable[tuple[Any, Any]]:
    """Splits [key, value, key, value, …] into pairs."""
    if len(flat) % 2:
        raise IndexError
    return ((safe_key(key), value) for key, value in zip(flat[::2], flat[1::2], strict=True))


# operations whose argument is the value itself
_LITERALS = frozenset({
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8",
    "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
})  # fmt: skip
_Operation = Callable[[_Machine, Any], None]
_OPERATIONS: dict[str, _Operation] = {
    "NONE": lambda m, _: m._push(None),
    "NEWTRUE": lambda m, _: m._push(True),
    "NEWFALSE": lambda m, _: m._push(False),
    "EMPTY_LIST": lambda m, _: m._push([]),
    "EMPTY_TUPLE": lambda m, _: m._push(()),
    "EMPTY_DICT": lambda m, _: m._push({}),
    "EMPTY_SET": lambda m, _: m._push([]),
    "MARK": _Machine._mark,
    "POP": _Machine._pop_or_unmark,
    "POP_MARK": lambda m, _: m._drop_marked(),
    "DUP": lambda m, _: m._push(m._stack[-1]),
    "LIST": lambda m, _: m._push(m._above_mark()),
    "FROZENSET": lambda m, _: m._push(m._above_mark()),
    "TUPLE": lambda m, _: m._push(tuple(m._above_mark())),
    "TUPLE1": lambda m, _: m._tuple(1),
    "TUPLE2": lambda m, _: m._tuple(2),
    "TUPLE3": lambda m, _: m._tuple(3),
    "DICT": _Machine._dictionary,
    "APPEND": lambda m, _: m._append([m._pop()]),
    "APPENDS": lambda m, _: m._append(m._above_mark()),
    "ADDITEMS": lambda m, _: m._append(m._above_mark()),
    "SETITEM": _Machine._set_item,
    "SETITEMS": lambda m, _: m._set_items(m._above_mark()),
    "PUT": _Machine._put,
    "BINPUT": _Machine._put,
    "LONG_BINPUT": _Machine._put,
    "MEMOIZE": _Machine._memoize,
    "GET": _Machine._get,
    "BINGET": _Machine._get,
    "LONG_BINGET": _Machine._get,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._call,
    "NEWOBJ": _Machine._call,
    "NEWOBJ_EX": _Machine._call_with_named,
    "INST": _Machine._instance,
    "OBJ": _Machine._object,
    "BUILD": _Machine._build,
    "PERSID": _Machine._persistent_id,
    "BINPERSID": lambda m, _: m._persistent_id(m._pop()),
    "EXT1": lambda m, code: m._push(Name("copyreg", f"extension {code}")),
    "EXT2": lambda m, code: m._push(Name("copyreg", f"extension {code}")),
    "EXT4": lambda m, code: m._push(Name("copyreg", f"extension {code}")),
    "READONLY_BUFFER": lambda _m, _: None,
    "PROTO": lambda _m, _: None,
    "FRAME": lambda _m, _: None,
    "STOP": _Machine._stop,
}
