"""Reading a pickle from a stranger without running it: plain data and NumPy's numbers, nothing else.

Python's own reader calls what a file names. This one knows the opcodes that plain data needs and a fixed table of
names; each name stands for a function of ours that checks its arguments. Sizes are checked before memory is asked for,
and one :class:`Budget` bounds the memory and the time of the whole.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy

from advrbd_plugin import limits

_SLOT = 16  # bytes of a place on the stack or in a list, generously
_OBJECT = 64  # bytes of a small object
_ENTRY = 100  # bytes of a dictionary's entry
_MOST_EXPANDED = 50_000_000  # values, each counted as often as it can be reached
_LARGEST_KEY = 2**32  # whole numbers up to here cannot be chosen so that a dictionary becomes slow
_LONGEST_NUMBER = 64  # characters or bytes
_LONGEST_NAME = 200
_MOST_DIMENSIONS = 16
_DTYPE = re.compile(r"[biuf][1248]|f16|\?")
_ENCODINGS = frozenset({"latin1", "latin-1", "iso-8859-1"})


class UnreadablePickle(pickle.UnpicklingError):
    """Why a pickle is not read.

    Attributes:
        refused: the name of the type or function that the file asks for and that is on no list of ours, if that is why.
    """

    def __init__(self, reason: str, refused: str | None = None) -> None:
        super().__init__(reason)
        self.refused = refused


class Budget:
    """What reading one file may take.

    Args:
        file_size: bytes of the file; what it holds is allowed for beside :data:`limits.READING_MEMORY`.

    Raises:
        UnreadablePickle: by both methods, once it is used up.
    """

    def __init__(self, file_size: int) -> None:
        self.left = limits.READING_MEMORY * 3 // 4 + 4 * file_size
        self.ends = time.thread_time() + limits.READING_SECONDS

    def spend(self, size: int) -> None:
        """Ask for ``size`` bytes."""
        self.left -= size
        if self.left < 0:
            raise UnreadablePickle("it asks for more memory than reading a file may take")

    def check_time(self) -> None:
        """Ask whether to go on."""
        if time.thread_time() > self.ends:
            raise UnreadablePickle(f"reading it takes longer than {limits.READING_SECONDS:g} s")


@dataclass
class Unfinished:
    """What stands for an object until its state comes; :meth:`finish` makes the object from it."""

    places: list[int] = field(default_factory=list, init=False, repr=False)  # in the memo

    def finish(self, state: Any, budget: Budget) -> Any:
        """The object."""
        raise NotImplementedError


@dataclass(frozen=True)
class Named:
    """A name on our list that a file mentions.

    Attributes:
        name: ``module.name``.
        make: from the arguments that the file gives it (and the budget) to plain data; ``None`` if it is only named.
    """

    name: str
    make: Callable[[tuple[Any, ...], Budget], Any] | None = None


def read_pickle(
    content: bytes,
    *,
    names: Mapping[str, Any] | None = None,
    persistent: Callable[[Any], Any] | None = None,
    budget: Budget | None = None,
    start: int = 0,
) -> tuple[Any, int]:
    """The plain data that a pickle holds, and where the pickle ends.

    Texts that Python 2 wrote are read as latin1.

    Args:
        content: the file.
        names: ``module.name`` -> :class:`Named`, or the value that it stands for; :data:`NUMBER_NAMES` by default.
        persistent: what a persistent id stands for; without it there must be none.
        budget: of the whole file.
        start: where the pickle begins.

    Raises:
        UnreadablePickle: it is damaged, or holds more than plain data and what ``names`` lists.
        MemoryError: the computer has less than the budget.
    """
    budget = budget or Budget(len(content))
    reader = _Reader(content, start, NUMBER_NAMES if names is None else names, persistent, budget)
    try:
        value = reader.read()
        _Measure(budget).measure(value, 0)
    except (UnreadablePickle, MemoryError):
        raise
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, struct.error) as error:
        raise UnreadablePickle("it is no whole pickle") from error
    return value, reader.position


class _Reader:
    """One pass over the opcodes."""

    def __init__(
        self,
        content: bytes,
        start: int,
        names: Mapping[str, Any],
        persistent: Callable[[Any], Any] | None,
        budget: Budget,
    ) -> None:
        self.content = content
        self.position = start
        self.names = names
        self.persistent = persistent
        self.budget = budget
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.operations = {ord(code): getattr(self, f"_{name}") for code, name in _OPERATIONS.items()}

    def read(self) -> Any:
        content, operations, budget = self.content, self.operations, self.budget
        steps = 0
        while True:
            if not steps & 0x3FFF:
                budget.check_time()
            steps += 1
            budget.left -= _SLOT  # no opcode puts more than one value on the stack
            if budget.left < 0:
                budget.spend(0)
            code = content[self.position]
            self.position += 1
            if code == 0x2E:  # STOP
                return self.stack[-1]
            operation = operations.get(code)
            if operation is None:
                raise UnreadablePickle(f"it holds the opcode {bytes([code])!r}, which plain data does not need")
            operation()

    # What stands in the file after an opcode.

    def _take(self, size: int) -> bytes:
        end = self.position + size
        if size < 0 or end > len(self.content):
            raise UnreadablePickle("it is cut short")
        self.budget.spend(size + _OBJECT)
        taken = bytes(self.content[self.position : end])
        self.position = end
        return taken

    def _sized(self, width: int, *, signed: bool = False) -> bytes:
        return self._take(int.from_bytes(self._take(width), "little", signed=signed))

    def _line(self, longest: int) -> bytes:
        end = self.content.find(b"\n", self.position, self.position + longest + 1)
        if end < 0:
            raise UnreadablePickle("it is cut short, or holds a line that is too long")
        line = self._take(end - self.position)
        self.position += 1
        return line

    def _push(self, value: Any) -> None:
        self.stack.append(value)

    def _push_text(self, raw: bytes, encoding: str, errors: str = "strict") -> None:
        text = raw.decode(encoding, errors)
        self.budget.spend(sys.getsizeof(text))
        self.stack.append(text)

    def _since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marked.pop()
        return items

    # Numbers.

    def _int_1(self) -> None:
        self._push(self._take(1)[0])

    def _int_2(self) -> None:
        self._push(int.from_bytes(self._take(2), "little"))

    def _int_4(self) -> None:
        self._push(int.from_bytes(self._take(4), "little", signed=True))

    def _int_line(self) -> None:
        line = self._line(_LONGEST_NUMBER)
        self._push(line == b"01" if line in (b"00", b"01") else int(line, 0))

    def _long_line(self) -> None:
        self._push(int(self._line(_LONGEST_NUMBER).rstrip(b"L"), 0))

    def _long_1(self) -> None:
        self._push(self._long(self._take(1)[0]))

    def _long_4(self) -> None:
        self._push(self._long(int.from_bytes(self._take(4), "little", signed=True)))

    def _long(self, size: int) -> int:
        if size > _LONGEST_NUMBER:
            raise UnreadablePickle(f"it holds a whole number of {size} bytes")
        return int.from_bytes(self._take(size), "little", signed=True)

    def _float_8(self) -> None:
        self._push(struct.unpack(">d", self._take(8))[0])

    def _float_line(self) -> None:
        self._push(float(self._line(_LONGEST_NUMBER)))

    def _none(self) -> None:
        self._push(None)

    def _true(self) -> None:
        self._push(True)

    def _false(self) -> None:
        self._push(False)

    # Text and bytes.

    def _text_1(self) -> None:
        self._push_text(self._sized(1), "utf-8", "surrogatepass")

    def _text_4(self) -> None:
        self._push_text(self._sized(4), "utf-8", "surrogatepass")

    def _text_8(self) -> None:
        self._push_text(self._sized(8), "utf-8", "surrogatepass")

    def _text_line(self) -> None:
        self._push_text(self._line(len(self.content)), "raw-unicode-escape")

    def _string_1(self) -> None:
        self._push_text(self._sized(1), "latin1")

    def _string_4(self) -> None:
        self._push_text(self._sized(4, signed=True), "latin1")

    def _string_line(self) -> None:
        line = self._line(len(self.content))
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise UnreadablePickle("it holds a text without quotation marks")
        # Python 2 escaped as Python still does for bytes: every escape is one character of latin1.
        self._push_text(line[1:-1].decode("latin1").encode("latin1"), "unicode-escape")

    def _bytes_1(self) -> None:
        self._push(self._sized(1))

    def _bytes_4(self) -> None:
        self._push(self._sized(4))

    def _bytes_8(self) -> None:
        self._push(self._sized(8))

    def _bytearray_8(self) -> None:
        self._push(bytearray(self._sized(8)))

    # Containers.

    def _mark(self) -> None:
        self.budget.spend(_OBJECT)
        self.marked.append(self.stack)
        self.stack = []

    def _pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self._since_mark()

    def _pop_mark(self) -> None:
        self._since_mark()

    def _dup(self) -> None:
        self._push(self.stack[-1])

    def _empty_list(self) -> None:
        self.budget.spend(_OBJECT)
        self._push([])

    def _empty_dict(self) -> None:
        self.budget.spend(_OBJECT)
        self._push({})

    def _empty_tuple(self) -> None:
        self._push(())

    def _empty_set(self) -> None:
        self.budget.spend(4 * _OBJECT)
        self._push(set())

    def _list(self) -> None:
        items = self._since_mark()
        self.budget.spend(_OBJECT)
        self._push(items)

    def _tuple(self) -> None:
        items = self._since_mark()
        self.budget.spend(_OBJECT + 8 * len(items))
        self._push(tuple(items))

    def _tuple_1(self) -> None:
        self._tuple_of(1)

    def _tuple_2(self) -> None:
        self._tuple_of(2)

    def _tuple_3(self) -> None:
        self._tuple_of(3)

    def _tuple_of(self, count: int) -> None:
        if len(self.stack) < count:
            raise UnreadablePickle("it is damaged")
        self.budget.spend(_OBJECT + 8 * count)
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _dict(self) -> None:
        items = self._since_mark()
        self.budget.spend(_OBJECT)
        self._push({})
        self._store(items)

    def _frozenset(self) -> None:
        items = self._since_mark()
        self.budget.spend(4 * _OBJECT + _ENTRY * len(items))
        self._push(frozenset(map(hashable, items)))

    def _append(self) -> None:
        item = self.stack.pop()
        self._append_all([item])

    def _appends(self) -> None:
        self._append_all(self._since_mark())

    def _append_all(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise UnreadablePickle("it appends to what is no list")
        self.budget.spend(_SLOT * len(items))
        target.extend(items)

    def _set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._store([key, value])

    def _set_items(self) -> None:
        self._store(self._since_mark())

    def _store(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) not in (dict, OrderedDict) or len(items) % 2:
            raise UnreadablePickle("it stores entries in what is no dictionary")
        self.budget.spend(_ENTRY * len(items))
        for place in range(0, len(items), 2):
            target[hashable(items[place])] = items[place + 1]

    def _add_items(self) -> None:
        items = self._since_mark()
        target = self.stack[-1]
        if type(target) is not set:
            raise UnreadablePickle("it adds to what is no set")
        self.budget.spend(_ENTRY * len(items))
        target.update(map(hashable, items))

    # The memo. Its places are keys of a dictionary: a large one takes no more than a small one.

    def _put_line(self) -> None:
        self._memoize(int(self._line(_LONGEST_NUMBER)))

    def _put_1(self) -> None:
        self._memoize(self._take(1)[0])

    def _put_4(self) -> None:
        self._memoize(int.from_bytes(self._take(4), "little"))

    def _put_next(self) -> None:
        self._memoize(len(self.memo))

    def _memoize(self, place: int) -> None:
        if not 0 <= place < _LARGEST_KEY:
            raise UnreadablePickle("it is damaged")
        self.budget.spend(_ENTRY)
        value = self.stack[-1]
        self.memo[place] = value
        if isinstance(value, Unfinished):
            value.places.append(place)

    def _get_line(self) -> None:
        self._push(self.memo[int(self._line(_LONGEST_NUMBER))])

    def _get_1(self) -> None:
        self._push(self.memo[self._take(1)[0]])

    def _get_4(self) -> None:
        self._push(self.memo[int.from_bytes(self._take(4), "little")])

    # Names and what is made of them.

    def _protocol(self) -> None:
        version = self._take(1)[0]
        if version > 5:
            raise UnreadablePickle(f"it has the pickle protocol {version}, which is not known")

    def _frame(self) -> None:
        self._take(8)

    def _global(self) -> None:
        module, name = self._line(_LONGEST_NAME), self._line(_LONGEST_NAME)
        self._name(module.decode("utf-8", "replace"), name.decode("utf-8", "replace"))

    def _stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise UnreadablePickle("it is damaged")
        self._name(module[:_LONGEST_NAME], name[:_LONGEST_NAME])

    def _name(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in self.names:
            raise UnreadablePickle(f"it names {full}", refused=full)
        self._push(self.names[full])

    def _reduce(self) -> None:
        arguments, callee = self.stack.pop(), self.stack.pop()
        if not isinstance(callee, Named) or not isinstance(arguments, tuple):
            raise UnreadablePickle("it is damaged")
        if callee.make is None:
            raise UnreadablePickle(f"it calls {callee.name}", refused=callee.name)
        self.budget.spend(_OBJECT)
        self._push(callee.make(arguments, self.budget))

    def _build(self) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Unfinished):
            self.stack[-1] = target.finish(state, self.budget)
            for place in target.places:
                if self.memo.get(place) is target:
                    self.memo[place] = self.stack[-1]
        elif type(target) is OrderedDict and isinstance(state, dict):
            if isinstance(state.get("_metadata"), dict):  # a state dict's versions of its layers
                vars(target)["_metadata"] = state["_metadata"]
        else:
            raise UnreadablePickle(f"it gives a state to a {type(target).__name__}")

    def _persistent(self) -> None:
        if self.persistent is None:
            raise UnreadablePickle("it refers to something outside itself")
        self._push(self.persistent(self.stack.pop()))


_OPERATIONS = {
    "K": "int_1",
    "M": "int_2",
    "J": "int_4",
    "I": "int_line",
    "L": "long_line",
    "\x8a": "long_1",
    "\x8b": "long_4",
    "G": "float_8",
    "F": "float_line",
    "N": "none",
    "\x88": "true",
    "\x89": "false",
    "\x8c": "text_1",
    "X": "text_4",
    "\x8d": "text_8",
    "V": "text_line",
    "U": "string_1",
    "T": "string_4",
    "S": "string_line",
    "C": "bytes_1",
    "B": "bytes_4",
    "\x8e": "bytes_8",
    "\x96": "bytearray_8",
    "(": "mark",
    "0": "pop",
    "1": "pop_mark",
    "2": "dup",
    "]": "empty_list",
    "}": "empty_dict",
    ")": "empty_tuple",
    "\x8f": "empty_set",
    "l": "list",
    "t": "tuple",
    "\x85": "tuple_1",
    "\x86": "tuple_2",
    "\x87": "tuple_3",
    "d": "dict",
    "\x91": "frozenset",
    "a": "append",
    "e": "appends",
    "s": "set_item",
    "u": "set_items",
    "\x90": "add_items",
    "p": "put_line",
    "q": "put_1",
    "r": "put_4",
    "\x94": "put_next",
    "g": "get_line",
    "h": "get_1",
    "j": "get_4",
    "\x80": "protocol",
    "\x95": "frame",
    "c": "global",
    "\x93": "stack_global",
    "R": "reduce",
    "\x81": "reduce",  # NEWOBJ: what a class makes of arguments is what our function makes of them
    "b": "build",
    "Q": "persistent",
}


def hashable(key: Any) -> Any:
    """``key`` if it may be a dictionary's: text, bytes, or a number of at most 32 bits (no others are needed)."""
    if type(key) in (str, bytes, bool, type(None)):
        return key
    if (type(key) is int or isinstance(key, numpy.integer)) and -_LARGEST_KEY < int(key) < _LARGEST_KEY:
        return key
    raise UnreadablePickle(f"it has a {type(key).__name__} as the key of a dictionary")


class _Measure:
    """Refuses what is finite in the file but endless, or nearly so, for whoever goes through it."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self.known: dict[int, tuple[int, int]] = {}  # id -> how many values it expands to, how deep it is

    def measure(self, value: Any, depth: int) -> tuple[int, int]:
        if isinstance(value, (Unfinished, Named)):
            raise UnreadablePickle("it is damaged: an object lacks its state")
        if not isinstance(value, (list, tuple, dict, set, frozenset)):
            return 1, 0
        known = self.known.get(id(value))
        if known is None:
            known = self._measure_container(value, depth)
            self.known[id(value)] = known
            self.budget.spend(_ENTRY)
            if not len(self.known) & 0x3FFF:
                self.budget.check_time()
        if depth + known[1] > limits.MAX_DEPTH:
            raise UnreadablePickle("it is nested too deep")
        return known

    def _measure_container(self, value: Any, depth: int) -> tuple[int, int]:
        if depth > limits.MAX_DEPTH:  # a container that holds itself ends here as well
            raise UnreadablePickle("it is nested too deep")
        size, height = 1, 0
        for item in value.values() if isinstance(value, dict) else value:
            if type(item) in _LEAVES:
                size += 1
                continue
            below = self.measure(item, depth + 1)
            size, height = size + below[0], max(height, below[1] + 1)
        if size > _MOST_EXPANDED:
            raise UnreadablePickle("it holds more values than memory would, each shared many times")
        return size, height


_LEAVES = frozenset({str, int, float, bool, bytes, type(None)})


@dataclass
class _Dtype(Unfinished):
    code: str

    def finish(self, state: Any, budget: Budget) -> numpy.dtype:
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise UnreadablePickle("it holds a damaged dtype")
        if any(part is not None for part in state[2:5]):
            raise _no_numbers("a record")
        order = "" if state[1] == "|" else state[1]
        return numpy.dtype(order + self.code)


@dataclass
class _Array(Unfinished):
    def finish(self, state: Any, budget: Budget) -> numpy.ndarray:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise UnreadablePickle("it holds a damaged array")
        shape, dtype, fortran, content = state[-4:]
        return make_array(content, dtype, shape, "F" if fortran else "C", budget)


def make_array(content: Any, dtype: Any, shape: Any, order: Any, budget: Budget) -> numpy.ndarray:
    """A new array of numbers from its bytes, which must be exactly as many as it needs."""
    if isinstance(content, str):  # as Python 2 wrote bytes
        content = content.encode("latin1")
    if not isinstance(content, (bytes, bytearray)) or not isinstance(dtype, numpy.dtype) or order not in ("C", "F"):
        raise UnreadablePickle("it holds a damaged array")
    count = element_count(shape)
    if count * dtype.itemsize != len(content):
        raise UnreadablePickle(f"it holds an array of {count} numbers in {len(content)} bytes")
    budget.spend(len(content) + 2 * _OBJECT)
    if not count:
        return numpy.empty(shape, dtype)
    return numpy.frombuffer(content, dtype).reshape(shape, order=order).copy(order="K")


def element_count(shape: Any) -> int:
    """How many numbers an array or tensor of a shape holds.

    Raises:
        UnreadablePickle: the shape is none.
    """
    if not isinstance(shape, tuple) or len(shape) > _MOST_DIMENSIONS:
        raise UnreadablePickle("it holds an array whose shape is none")
    if not all(type(side) is int and 0 <= side < 2**40 for side in shape):
        raise UnreadablePickle("it holds an array whose shape is none")
    return math.prod(shape)


def _no_numbers(what: str) -> UnreadablePickle:
    name = f"numpy.dtype({what})"
    return UnreadablePickle(f"it holds {name}, which is none of numbers", refused=name)


def _make_dtype(arguments: tuple[Any, ...], budget: Budget) -> _Dtype:
    code = arguments[0]
    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        raise _no_numbers(code[:_LONGEST_NAME] if isinstance(code, str) else "")
    return _Dtype(code)


def _make_empty_array(arguments: tuple[Any, ...], budget: Budget) -> _Array:
    if not isinstance(arguments[0], Named) or arguments[0].name != "numpy.ndarray":
        raise UnreadablePickle("it holds a damaged array")
    return _Array()


def _make_number(arguments: tuple[Any, ...], budget: Budget) -> numpy.generic:
    dtype, content = arguments
    number: numpy.generic = make_array(content, dtype, (1,), "C", budget)[0]
    return number


def _make_array_of_buffer(arguments: tuple[Any, ...], budget: Budget) -> numpy.ndarray:
    content, dtype, shape, order = arguments
    return make_array(content, dtype, shape, order, budget)


def _make_bytes(arguments: tuple[Any, ...], budget: Budget) -> bytes:
    """``_codecs.encode(text, "latin1")``, as Python 3 writes bytes for Python 2; empty for ``bytes()``."""
    if not arguments:
        return b""
    text, encoding = arguments
    if not isinstance(text, str) or encoding not in _ENCODINGS:
        raise UnreadablePickle("it encodes text otherwise than in latin1")
    budget.spend(len(text))
    return text.encode("latin1")


def _make_bytearray(arguments: tuple[Any, ...], budget: Budget) -> bytearray:
    if len(arguments) == 1 and isinstance(arguments[0], (bytes, bytearray)):
        budget.spend(len(arguments[0]))
        return bytearray(arguments[0])
    return bytearray(_make_bytes(arguments, budget))


def _make_ordered(arguments: tuple[Any, ...], budget: Budget) -> OrderedDict[Any, Any]:
    budget.spend(4 * _OBJECT)
    pairs = arguments[0] if arguments else []
    if not isinstance(pairs, list) or not all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in pairs):
        raise UnreadablePickle("it holds a damaged dictionary")
    budget.spend(2 * _ENTRY * len(pairs))
    return OrderedDict((hashable(key), value) for key, value in pairs)


def _make_set(kind: type) -> Callable[[tuple[Any, ...], Budget], Any]:
    def make(arguments: tuple[Any, ...], budget: Budget) -> Any:
        items = arguments[0] if arguments else []
        if not isinstance(items, (list, tuple)):
            raise UnreadablePickle("it holds a damaged set")
        budget.spend(4 * _OBJECT + _ENTRY * len(items))
        return kind(map(hashable, items))

    return make


def _named(**makers: Callable[[tuple[Any, ...], Budget], Any] | None) -> dict[str, Named]:
    return {name: Named(name, make) for name, make in makers.items()}


NUMBER_NAMES: Mapping[str, Named] = _named(
    **{
        "numpy.ndarray": None,
        "numpy.dtype": _make_dtype,
        "_codecs.encode": _make_bytes,
        "collections.OrderedDict": _make_ordered,
        **{f"numpy.{core}.multiarray._reconstruct": _make_empty_array for core in ("core", "_core")},
        **{f"numpy.{core}.multiarray.scalar": _make_number for core in ("core", "_core")},
        **{f"numpy.{core}.numeric._frombuffer": _make_array_of_buffer for core in ("core", "_core")},
        **{f"{module}.set": _make_set(set) for module in ("builtins", "__builtin__")},
        **{f"{module}.frozenset": _make_set(frozenset) for module in ("builtins", "__builtin__")},
        **{f"{module}.bytearray": _make_bytearray for module in ("builtins", "__builtin__")},
        **{f"{module}.bytes": _make_bytes for module in ("builtins", "__builtin__")},
    }
)
"""What plain data with NumPy's arrays and numbers names, as NumPy 1 and NumPy 2 write them."""
