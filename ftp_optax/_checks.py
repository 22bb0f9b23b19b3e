"""Checks of arguments, made before JAX sees them."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import optax

_P = ParamSpec("_P")
_T = TypeVar("_T")

_RANGES: dict[str, Callable[[float], bool]] = {
    "be positive and finite": lambda x: 0 < x < float("inf"),
    "be finite and not negative": lambda x: 0 <= x < float("inf"),
    "lie in [0, 1]": lambda x: 0 <= x <= 1,
    "lie in (0, 1]": lambda x: 0 < x <= 1,
    "lie in [0, 1)": lambda x: 0 <= x < 1,
}


def shown(value: Any) -> str:
    """A short text for a value in a message. An array is shown by its type, dtype and shape."""
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{type(value).__name__} of dtype {value.dtype} and shape {tuple(value.shape)}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"


def dtype_of(value: Any, path: str, what: str) -> Any:
    """The dtype of a leaf.

    Raises:
      TypeError: if it is neither an array nor a number.
    """
    try:
        return jnp.result_type(value)
    except (TypeError, ValueError):
        raise TypeError(f"{what} has {shown(value)} at {path!r}; it must be an array or None.") from None


def floating(value: Any, path: str, what: str) -> None:
    """Raises TypeError, naming the leaf, unless it is an array of real floating-point numbers."""
    if not jnp.issubdtype(dtype := dtype_of(value, path, what), jnp.floating):
        raise TypeError(
            f"{what} has dtype {dtype} at {path!r}; that of a constrained leaf must be real floating-point."
        )


def trainable(value: Any, path: str, method: str, full_precision: bool) -> None:
    """Raises TypeError, naming the leaf, for a parameter that cannot be constrained."""
    dtype = dtype_of(value, path, f"{method}: params")
    leaf = f"the leaf {path!r} of dtype {dtype}"
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{method} cannot constrain {leaf}, only real floating-point leaves; leave it out with mask=.")
    if dtype.itemsize < 2:
        raise TypeError(
            f"{method} cannot constrain {leaf}, in which optax does not compute; cast it to bfloat16, or mask=."
        )
    if full_precision and dtype.itemsize < 4:
        raise TypeError(
            f"{method}: memory='lean' cannot train {leaf}; use memory='exact', whose float32 displacement serves as "
            "master weights."
        )


def leaves(rule: str, path: Any, shape: Any) -> None:
    """Raises TypeError unless the path is a string and the shape a tuple of ints."""
    if not isinstance(path, str):
        raise TypeError(f"{rule}: path must be a string such as 'encoder/kernel', got {shown(path)}.")
    if not isinstance(shape, tuple | list) or not all(isinstance(n, int) for n in shape):
        raise TypeError(f"{rule}: shape must be a tuple of ints, got {shown(shape)}.")


def transformations(method: str, **given: Any) -> None:
    """Raises TypeError for values that are not optax transformations."""
    for name, value in given.items():
        if not _is_transformation(value):
            raise TypeError(
                f"{method}: {name} must be an optax transformation such as optax.adamw(1e-4), got {shown(value)}."
            )


def _is_transformation(value: Any) -> bool:
    return callable(getattr(value, "init", None)) and callable(getattr(value, "update", None))


def no_base(call: str) -> Callable[[Callable[_P, _T]], Callable[_P, _T]]:
    """A method without a base optimizer says where that goes, in place of Python's error. `call` is an example."""

    def decorate(make: Callable[_P, _T]) -> Callable[_P, _T]:
        @functools.wraps(make)
        def checked(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            if "inner" in kwargs or any(map(_is_transformation, args)):
                raise TypeError(
                    f"{make.__name__} takes no base optimizer: it stands in front of it, "
                    f"optax.chain({call}, optax.adamw(1e-4))."
                )
            return make(*args, **kwargs)

        return checked

    return decorate


def choices(method: str, allowed: tuple[str, ...], **given: Any) -> None:
    """Raises ValueError for values that are not among the allowed words."""
    for name, value in given.items():
        if value not in allowed:
            raise ValueError(f"{method}: {name} must be {' or '.join(map(repr, allowed))}, got {value!r}.")


def rules(method: str, **given: Any) -> None:
    """Raises TypeError for values that are not functions of a path and a shape."""
    for name, value in given.items():
        if not callable(value):
            raise TypeError(f"{method}: {name} must be a rule, (path, shape) -> tuple of axes, got {shown(value)}.")


def numbers(method: str, must: str | None = None, /, **given: Any) -> None:
    """Raises TypeError unless a value is a real number or a 0-D array of one, ValueError for a number out of its range.

    The values of arrays are not checked: `optax.inject_hyperparams` makes them from checked numbers.
    """
    for name, value in given.items():
        if not _is_number(value):
            raise TypeError(f"{method}: {name} must be a real number or a 0-D array of one, got {shown(value)}.")
        if must and isinstance(value, int | float) and not _RANGES[must](value):
            raise ValueError(f"{method}: {name} must {must}, got {value}.")


def _is_number(value: Any) -> bool:
    if isinstance(value, int | float):
        return not isinstance(value, bool)
    dtype = getattr(value, "dtype", None)
    real = isinstance(dtype, jnp.dtype) and any(jnp.issubdtype(dtype, kind) for kind in (jnp.floating, jnp.integer))
    return real and getattr(value, "ndim", None) == 0


def floating_dtypes(method: str, **given: Any) -> None:
    """Raises TypeError for values that are neither None nor a real floating-point dtype."""
    for name, value in given.items():
        if value is None:
            continue
        try:
            fits = not isinstance(value, jax.Array) and jnp.issubdtype(jnp.dtype(value), jnp.floating)
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise TypeError(
                f"{method}: {name} must be None or a real floating-point dtype such as jnp.bfloat16, got "
                f"{shown(value)}. With optax.inject_hyperparams give its name as a string."
            )


def states(method: str, state: Any, kind: type) -> None:
    """Raises TypeError for a state that is not the method's own."""
    if not isinstance(state, kind):
        raise TypeError(
            f"{method}: update got a {type(state).__name__} as state, not the {kind.__name__} that init returns. A "
            "checkpoint that was restored as plain dicts needs the target jax.eval_shape(tx.init, params)."
        )


def inner_state(method: str, state: optax.OptState) -> optax.OptState:
    """Returns a base optimizer's state. Raises ValueError for `schedule_free`, whose average is not projected."""
    averages = lambda node: isinstance(node, optax.contrib.ScheduleFreeState)
    if any(averages(node) for node in jax.tree.leaves(state, is_leaf=averages)):
        raise ValueError(
            f"{method}: the base optimizer is optax.contrib.schedule_free, whose evaluation parameters are an average "
            f"that {method} does not project. Put it outside: schedule_free(ftp(..., memory='lean'), learning_rate)."
        )
    return state
