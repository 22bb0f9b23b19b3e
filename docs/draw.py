"""Draws the figures of the page *How it works*, each for light and for dark pages.

    python docs/draw.py            # writes docs/figures/*.svg

The library computes what the figures show: `ftp` the projections and hyper-gradients, `digrap` the gradients.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import tyro

from ftp_optax import digrap, ftp

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.patches import Polygon, Rectangle, Wedge


class Ink(NamedTuple):
    """The colours of a page, those of Okabe and Ito, which colour-blind readers can tell apart."""

    text: str
    faint: str
    fill: str
    anchor: str
    free: str
    kept: str
    bad: str


INKS = {
    "light": Ink("#222222", "#999999", "#e6f0f8", "#222222", "#b35900", "#0072B2", "#c0392b"),
    "dark": Ink("#dddddd", "#777777", "#18303f", "#eeeeee", "#E69F00", "#56B4E9", "#ff8066"),
}


DIAMOND = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]])  # the corners of the l1 ball


def arrow(axes: Any, start: Any, end: Any, colour: str, label: str = "", at: Any = (0, 0), **style: Any) -> None:
    """An arrow, and its label near its middle."""
    properties = {"arrowstyle": "-|>", "color": colour, "lw": 2, "shrinkA": 0, "shrinkB": 0, **style}
    axes.annotate("", end, start, arrowprops=properties)
    middle = (np.asarray(start) + np.asarray(end)) / 2 + np.asarray(at)
    axes.text(*middle, label, color=colour, ha="center", va="center", fontsize=12)


def dot(axes: Any, at: Any, colour: str, label: str, offset: Any, align: str = "center") -> None:
    """A point with its name."""
    axes.plot(*at, "o", color=colour, ms=7, zorder=5)
    axes.text(*(np.asarray(at) + offset), label, color=colour, ha=align, va="center", fontsize=12)


def plane(axes: Any, low: float, high: float, left: float | None = None, right: float | None = None) -> None:
    """No frame, equal axes."""
    axes.set_xlim(low if left is None else left, high if right is None else right)
    axes.set_ylim(low, high)
    axes.set_aspect("equal")
    axes.axis("off")


def projected(displacement: np.ndarray, radius: float) -> np.ndarray:
    """The displacement after `ftp` projects it at this radius. Units are in the last axis."""
    start = {"kernel": jnp.zeros(displacement.shape)}
    frozen = ftp(optax.sgd(1.0), initial_radius=radius, hyper_optimizer=optax.sgd(0.0))
    updates, _ = frozen.update({"kernel": -jnp.asarray(displacement)}, frozen.init(start), start)
    return np.asarray(updates["kernel"])


def ball(ink: Ink) -> Any:
    """One layer with three units: two lie outside the ball and are scaled back, one lies inside and is not changed."""
    figure, axes = plt.subplots(figsize=(6.2, 4.4), layout="constrained")
    units = np.array([[1.5, 0.9], [-0.9, 1.15], [0.35, -0.45]]).T  # kernel [2, 3]: a column is a unit
    radius = 1.0
    axes.add_patch(Polygon(radius * DIAMOND, fc=ink.fill, ec=ink.kept, lw=1.5, zorder=0))
    after = projected(units, radius)
    for i in range(3):
        arrow(axes, (0, 0), units[:, i], ink.free, lw=1.5, linestyle="--")
        arrow(axes, (0, 0), after[:, i], ink.kept)
    dot(axes, (0, 0), ink.anchor, r"$W_0$", (-0.16, -0.13))
    axes.text(1.55, 0.98, r"$c_1$: goes outside, scaled back", color=ink.free, fontsize=12, ha="left", va="center")
    axes.text(-0.95, 1.27, r"$c_2$", color=ink.free, fontsize=12, ha="center")
    axes.text(0.6, -0.5, r"$c_3$: inside, not changed", color=ink.kept, fontsize=12, ha="left")
    axes.text(0.8, 0.3, r"$\frac{\gamma}{n_1}\,c_1$", color=ink.kept, fontsize=14, ha="left")
    axes.annotate("", (1, -0.86), (0, -0.86), arrowprops={"arrowstyle": "<->", "color": ink.text})
    axes.text(0.5, -1.0, r"$\gamma$, learned", color=ink.text, fontsize=12, ha="center", va="top")
    plane(axes, -1.25, 1.45, left=-1.6, right=3.3)
    return figure


def units(ink: Ink) -> Any:
    """One unit in each of the common kinds of leaves: its cells are scaled by one number."""
    figure, axes = plt.subplots(figsize=(8, 2.6), layout="constrained")
    grids = [
        ("dense or conv kernel\n[..., in, out]", 4, 6, lambda r, c: c == 2, "an output\nchannel"),
        ("embedding\n[tokens, features]", 6, 4, lambda r, c: r == 2, "a token's\nrow"),
        ("bias, scale\n[features]", 1, 6, lambda r, c: True, "all of it"),
        ("query, key, value\n[in, heads · dim]", 4, 6, lambda r, c: c == 4, "a head's\nfeature"),
    ]
    left = 0.0
    for title, rows, columns, inside, name in grids:
        for r in range(rows):
            for c in range(columns):
                on = inside(r, c)
                colour = ink.kept if on else "none"
                axes.add_patch(Rectangle((left + c, 3 - r), 0.92, 0.92, fc=colour, ec=ink.faint, lw=0.8))
        middle = left + columns / 2
        axes.text(middle, 5.4, title, color=ink.text, ha="center", va="center", fontsize=11)
        axes.text(middle, -3.2, name, color=ink.kept, ha="center", va="center", fontsize=11)
        left += columns + 4.2
    axes.set_xlim(-2, left - 2)
    axes.set_ylim(-4.4, 6.6)
    axes.set_aspect("equal")
    axes.axis("off")
    return figure


def hypergradient(ink: Ink) -> Any:
    """The radius grows where the loss falls away from the anchor, and shrinks where it falls towards the anchor."""
    figure, both = plt.subplots(1, 2, figsize=(8, 4), layout="constrained")
    reached, radius = np.array([[1.35], [0.9]]), 1.2
    for axes, gradient in zip(both, (np.array([[-0.55], [0.1]]), np.array([[0.3], [0.5]])), strict=True):
        point, slope = projected(reached, radius)[:, 0], slope_of(reached, gradient, radius)
        colour, sign = (ink.bad, ">") if slope > 0 else (ink.kept, "<")
        axes.add_patch(Polygon(radius * DIAMOND, color=ink.fill, zorder=0))
        arrow(axes, (0, 0), reached[:, 0], ink.free, r"$c$", (0.42, 0.42), lw=1.2, linestyle="--")
        dot(axes, (0, 0), ink.anchor, r"$W_0$", (-0.17, -0.17))
        dot(axes, point, ink.kept, r"$W$", (0.08, -0.2))
        arrow(axes, point, point - gradient[:, 0], colour)
        axes.text(*(point - gradient[:, 0] - [0.0, 0.15]), r"$-g$", color=colour, ha="center", va="center", fontsize=12)
        where, change = ("towards", "shrinks") if slope > 0 else ("away from", "grows")
        told = f"the loss falls {where} $W_0$: $\\gamma$ {change}"
        axes.set_title(f"$h = {slope:.2f} {sign} 0$\n{told}", color=ink.text, fontsize=11)
        plane(axes, -1.25, 1.25, left=-1.25, right=1.75)
    return figure


def slope_of(reached: np.ndarray, gradient: np.ndarray, radius: float) -> float:
    """The hyper-gradient of the second step of `ftp`: what sgd(1.0) subtracts from the radius."""
    start = {"kernel": jnp.zeros(reached.shape)}
    far = 10.0  # long steps of the base optimizer, so that no radius is clipped to what it reaches
    tx = ftp(optax.sgd(far), initial_radius=radius, hyper_optimizer=optax.sgd(1.0))
    updates, first = tx.update({"kernel": -jnp.asarray(reached) / far}, tx.init(start), start)
    _, second = tx.update({"kernel": jnp.asarray(gradient)}, first, optax.apply_updates(start, updates))
    return float(first.radii[0] - second.radii[0])


def conflict(ink: Ink) -> Any:
    """The half plane in which a gradient conflicts, and such a gradient after DiGraP."""
    figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    at = np.array([1.5, 0.0])
    gradient = np.array([-0.8, 0.75])
    axes.add_patch(Wedge(at, 1.4, -90, 90, color=ink.fill, zorder=0))
    axes.plot([at[0]] * 2, [-1.4, 1.4], color=ink.faint, lw=1, ls=":")
    arrow(axes, (0, 0), at, ink.text, r"$c = W - W_0$", (0, 0.17))
    dot(axes, (0, 0), ink.anchor, r"$W_0$", (-0.2, -0.14))
    dot(axes, at, ink.anchor, r"$W$", (-0.1, 0.2))
    arrow(axes, at, at - gradient, ink.free)
    axes.text(*(at - gradient + [0.1, -0.08]), r"$-g$: as computed", color=ink.free, fontsize=12, va="center")
    for share, label in ((0.5, r"$\omega = 0.5$"), (1.0, r"$\omega = 1$")):
        end = at - without(gradient, at, share)
        arrow(axes, at, end, ink.kept)
        axes.text(
            end[0] - 0.06, end[1] - 0.16, label, color=ink.kept, fontsize=12, ha="right" if share == 1 else "center"
        )
    side = "a step to this side leads\nfurther away: conflict,\n$\\langle g, c \\rangle < 0$"
    axes.text(1.62, 0.65, side, color=ink.text, fontsize=11, va="center")
    axes.text(0.75, 0.95, "a step to this side:\nnot changed", color=ink.faint, fontsize=11, ha="center", va="center")
    plane(axes, -1.45, 1.45, left=-0.5, right=3.7)
    return figure


def without(gradient: np.ndarray, displacement: np.ndarray, strength: float) -> np.ndarray:
    """The gradient after `digrap` at a fixed strength."""
    anchor, params = {"v": jnp.zeros(2)}, {"v": jnp.asarray(displacement)}
    tx = digrap(anchor=anchor, hyper_optimizer=optax.sgd(0.0))
    state = tx.init(params)._replace(strengths=jnp.array([strength]))
    return np.asarray(tx.update({"v": jnp.asarray(gradient)}, state, params)[0]["v"])


FIGURES: tuple[Callable[[Ink], Any], ...] = (ball, units, hypergradient, conflict)


def main(out: Path = Path(__file__).parent / "figures") -> None:
    """Draws every figure twice.

    Args:
        out: Where to.
    """
    plt.rcParams.update({"svg.hashsalt": "ftp_optax", "svg.fonttype": "path", "font.size": 11})
    out.mkdir(parents=True, exist_ok=True)
    for draw in FIGURES:
        for page, ink in INKS.items():
            figure = draw(ink)
            figure.savefig(out / f"{draw.__name__}-{page}.svg", transparent=True, metadata={"Date": None})
            plt.close(figure)


if __name__ == "__main__":
    tyro.cli(main)
