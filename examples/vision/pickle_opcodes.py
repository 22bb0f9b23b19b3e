"""The first of the two gates in front of a foreign pickle: its opcodes, read but not executed.

A restricted `find_class` keeps foreign code from running. It does not keep the unpickler itself
from harm: CPython allocates a memo as long as the largest index it is told, and hashes a tuple of
tuples by recursion, without a limit on depth (the stack overflows) or on repetition (the time is
exponential). No state dict needs a sparse memo or a dict key that is not a string, so the stack is
played through with "is this a string" in place of values, and such pickles never get further.
"""

import io
import pickletools

# All that a state dict of protocol 2 is made of. What is missing is missing on purpose: BYTEARRAY8
# allocates what it announces, EXT* can bypass find_class, NEWOBJ and INST call constructors.
_OPCODES = frozenset(
    """
    PROTO STOP MARK NONE NEWTRUE NEWFALSE BINUNICODE BINFLOAT BININT BININT1 BININT2 LONG1
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS
    GLOBAL REDUCE BUILD BINPERSID BINGET LONG_BINGET BINPUT LONG_BINPUT
    """.split()  # noqa: SIM905
)


def check_opcodes(data: bytes, start: int) -> int:
    """Checks the pickle that begins at `start` without building anything.

    Args:
        data: the bytes of a file.
        start: where in it the pickle begins.

    Returns:
        The position after the pickle's end.

    Raises:
        ValueError: an opcode that no state dict has, a sparse memo, or a dict key that is not a
            string; whatever `pickletools` raises for a damaged pickle.
    """
    stream = io.BytesIO(data)
    stream.seek(start)
    stack: list[bool | None] = []  # None is a mark
    memo: list[bool] = []
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name not in _OPCODES:
            raise ValueError(f"refused the pickle opcode {name}")
        if name in ("BINPUT", "LONG_BINPUT"):
            if argument != len(memo):
                raise ValueError("its memo indices are not consecutive")
            memo.append(bool(stack[-1]))
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[int(str(argument))])
        else:
            popped = _pop(stack, opcode)
            keys = popped[1::2] if name in ("SETITEM", "SETITEMS") else []
            if not all(keys):
                raise ValueError("it has a dict key that is not a string")
            pushed = {"BINUNICODE": True, "MARK": None}.get(name, False)
            stack += [pushed] * len(opcode.stack_after)
    return stream.tell()


def _pop(stack: list[bool | None], opcode: pickletools.OpcodeInfo) -> list[bool | None]:
    """Removes what the opcode takes from the stack, the mark left out of what is returned."""
    popped = []
    below = len(opcode.stack_before)
    if pickletools.markobject in opcode.stack_before:
        while (top := stack.pop()) is not None:
            popped.append(top)
        below = opcode.stack_before.index(pickletools.markobject)
    for _ in range(below):
        popped.append(stack.pop())
    return popped[::-1]
