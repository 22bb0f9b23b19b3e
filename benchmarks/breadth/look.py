"""The colour and marker of each method, the main benchmark's."""

from typing import Any

from style import METHODS as STYLE

__all__ = ["of"]

_NAMES = {"vanilla": "base", "l2_sp": "l2-sp"}
_OTHERS = {
    "zero_shot": ("#bbbbbb", "_"),
    "wise_ft": ("#117733", "."),
    "ftp_scale_free": ("#56B4E9", "d"),
}


def of(method: str) -> dict[str, Any]:
    """What matplotlib takes for a method; variants (`ftp, reanchored`) share the colour and have an open marker."""
    family, *variant = method.replace(",", " ").replace("+", " ").split()
    colour, marker = _OTHERS.get(family) or STYLE[_NAMES.get(family, family)]
    open_marker = bool(variant) and variant[0] != "0.7"
    return {
        "label": method, "color": colour, "marker": marker, "ms": 6, "mfc": "white" if open_marker else colour,
        "ls": "--" if open_marker else "-",
    }  # fmt: skip
