"""The fields of a configuration file: each is taken by name, what is left is refused, so none is overlooked."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from vision.errors import UserError

__all__ = ["DEEPEST", "Fields", "read_json"]

_T = TypeVar("_T")
_N = TypeVar("_N", int, float)
_REQUIRED: Any = object()
_LARGEST = 2**31 - 1

DEEPEST = 1000
"""More layers than any model has: a configuration with a million of them is damaged, and would take hours."""


class Fields:
    """The fields of one JSON object.

    A loader takes every field that it knows, with the value that the format gives to a field that is absent, and then
    calls `close`. So a field that changes the model and that nobody thought of is an error and not a wrong number.

    Args:
        values: The object.
        source: The file, and the path in it, for messages.
    """

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self.source = source
        self._left = dict(values)

    def __contains__(self, name: str) -> bool:
        return name in self._left

    def take(self, name: str, kind: type[_T], default: _T = _REQUIRED) -> _T:
        """The value of a field, of this type, finite; without a default it must be there.

        Null is as good as absent where the default is empty too, and else an error.
        """
        value: Any = self._pop(name, default)
        if value is default:
            return value
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.unsupported(name, value, f"{kind.__name__} is needed")
        if isinstance(value, float) and not math.isfinite(value):
            raise self.unsupported(name, value, "a finite number is needed")
        return value

    def _pop(self, name: str, default: Any) -> Any:
        """The value of a field, or the default."""
        if default is _REQUIRED and self._left.get(name) is None:
            raise UserError(f"{self.source}: has no field {name!r}; it needs one")
        value = self._left.pop(name, default)
        return default if value is None and not default else value

    def pair(self, name: str, default: tuple[int, int] = _REQUIRED) -> tuple[int, int]:
        """A height and a width, from one number or two."""
        value = self._pop(name, default)
        numbers = tuple(value) if isinstance(value, list | tuple) else (value, value)
        if len(numbers) != 2 or not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in numbers):
            raise self.unsupported(name, value, "one or two positive numbers are needed")
        return numbers

    def positive(self, name: str, default: int = _REQUIRED, *, most: int = _LARGEST) -> int:
        """A positive number."""
        return self._between(1, self.take(name, int, default), most, name)

    def count(self, name: str, default: int = _REQUIRED, *, most: int = _LARGEST) -> int:
        """How many there are of something, perhaps none."""
        return self._between(0, self.take(name, int, default), most, name)

    def factor(self, name: str, default: float = _REQUIRED, *, most: float = 1000.0) -> float:
        """What a size is multiplied by."""
        return self._between(0.001, self.take(name, float, default), most, name)

    def _between(self, least: _N, value: _N, most: _N, name: str) -> _N:
        if not least <= value <= most:
            raise self.unsupported(name, value, f"a number of {least} to {most} is needed")
        return value

    def integers(
        self, name: str, default: tuple[int, ...] = _REQUIRED, *, count: int | None = None, most: int = _LARGEST
    ) -> tuple[int, ...]:
        """Positive numbers; `count` of them if that is given."""
        values = tuple(self.take(name, list, default))
        if not values or not all(isinstance(n, int) and not isinstance(n, bool) and 0 < n <= most for n in values):
            raise self.unsupported(name, values, f"numbers of 1 to {most} are needed")
        if count is not None and len(values) != count:
            raise self.unsupported(name, values, f"{count} numbers are needed, one a stage")
        return values

    def one_of(self, name: str, options: Iterable[_T], default: _T = _REQUIRED) -> _T:
        """The value of a field that must be one of these."""
        value = self._pop(name, default)
        if value is default:
            return default
        options = tuple(options)
        for option in options:
            if value == option and type(value) is type(option):
                return option
        raise self.unsupported(name, value, f"supported: {', '.join(map(str, options))}")

    def fill(self, defaults: Mapping[str, Any]) -> None:
        """Gives the fields that are absent these values."""
        self._left = {**defaults, **self._left}

    def within(self, name: str) -> "Fields":
        """The fields of an object in this one."""
        return Fields(self.take(name, dict), f"{self.source}: {name}")

    def ignore(self, *names: str) -> None:
        """Passes over fields that do not change what the model computes."""
        for name in names:
            self._left.pop(name, None)

    def close(self) -> None:
        """Raises UserError if a field is left that nobody took."""
        if self._left:
            name, value = next(iter(self._left.items()))
            raise self.unsupported(name, value, "no loader here knows this field")

    def unsupported(self, name: str, value: Any, why: str) -> UserError:
        """The error that names a field and its value."""
        return UserError(f"{self.source}: {name} = {json.dumps(value)[:60]} is not supported; {why}")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        UserError: The file is missing, damaged, or holds no object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: does not exist; give the directory or file of a model") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a readable JSON file ({error}); download it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no JSON object; download it again")
    return values
