"""What a whole training step costs, forward, backward and optimizer, round adamw: each method over adamw alone.

FTP's claim is a step without TPGM's second forward and backward pass, which TPGM spends on a held-out batch of the same
size. All steps of a case run in turn in one process, the order reversed from round to round; times are told as ratios
of medians, with the 10th and 90th percentile of the ratios round by round. Temporary memory is that of the program,
activations and gradients included.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

import style
from cost import compiled, methods, networks, trees
from cost.methods import MethodName
from cost.part import Part, Row, distinct, spread
from style import plt
from vision.networks import Network, Params, split_model

CASES = ("vit-small:64:16", "vit-small:96:32", "vit-base:64:16", "efficientnet-lite0:64:16", "efficientnet-lite0:96:32")
CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Options(Part):
    """Measures whole training steps, each method over adamw."""

    cases: tuple[str, ...] = CASES  # What to train, as network:image size:batch size.
    # Methods round adamw.
    methods: tuple[MethodName, ...] = ("ftp", "ftp-lean", "digrap", "spd", "pgm", "l2-sp", "tpgm")
    runs: int = 20  # Rounds; each runs every step of a case once.

    name = "train_step"
    at_smallest: ClassVar = {"cases": ("vit-tiny:32:2",), "runs": 3}
    columns: ClassVar = {
        "network": lambda row: row["case"],
        "step": lambda row: methods.label(row["method"]),
        "ms": lambda row: f"{1e3 * row['over_adamw']['seconds']:.0f}",
        "over adamw": lambda row: f"{row['over_adamw']['ratio']:.3f}",
        "10-90 %": lambda row: spread(row["over_adamw"]),
        "least": lambda row: f"{row['over_adamw']['ratio_of_minima']:.3f}",
        "over tpgm": lambda row: "-" if row["over_tpgm"] is None else f"{row['over_tpgm']['ratio']:.2f}",
        "temporary": lambda row: f"{row['temporary_bytes'] / 1e6:.0f}",
        "flops over adamw": lambda row: f"{row['flops_over_adamw']:.2f}",
    }

    def plan(self) -> Iterable[tuple[str, ...]]:
        return ((case,) for case in self.cases)

    def measure(self, case: str) -> list[Row]:
        name, image_size, batch_size = case.split(":")
        size, examples = int(image_size), int(batch_size)
        network, params = split_model(networks.network(name, size, CLASSES))
        draw = np.random.default_rng(0)
        images = jnp.asarray(draw.uniform(0, 255, (examples, size, size, 3)), jnp.float32)
        batch = images, jnp.asarray(draw.integers(CLASSES, size=examples))
        trainings = {name: training(name, network, params, batch) for name in (methods.BASE, *self.methods)}
        times = compiled.in_turn(trainings, self.runs)
        over = lambda other, name: compiled.ratio(times[other], times[name]) if other in times else None
        flops = {name: training.program.cost_analysis()["flops"] for name, training in trainings.items()}
        return [
            {
                "case": case,
                "parameters": trees.count(params),
                "method": name,
                "over_adamw": over(methods.BASE, name),
                "over_tpgm": over("tpgm", name),
                "temporary_bytes": training.program.memory_analysis().temp_size_in_bytes,
                "flops_over_adamw": flops[name] / flops[methods.BASE],
            }
            for name, training in trainings.items()
        ]

    @staticmethod
    def draw(result: dict[str, Any], path: Path) -> None:
        """One panel a case: every method's time over adamw's, with its spread."""
        rows = [row for row in result["rows"] if row["method"] != methods.BASE]
        cases, names = distinct(rows, "case"), distinct(rows, "method")[::-1]
        size = (2.6 + 2.1 * len(cases), 1.6 + 0.34 * len(names))
        figure, panels = plt.subplots(1, len(cases), figsize=size, sharey=True, sharex=True, squeeze=False)
        for row in rows:
            panel, place, time = panels[0][cases.index(row["case"])], names.index(row["method"]), row["over_adamw"]
            look = style.of(row["method"])
            panel.plot(time["spread"], [place] * 2, color=look["color"], lw=1)
            panel.plot(time["ratio"], place, **look)
        for panel, case in zip(panels[0], cases, strict=True):
            panel.axvline(1, color="#444444", lw=0.8)
            panel.set_title(case, fontsize=9)
            panel.set_yticks(range(len(names)), names)
            style.clean(panel)
        panels[0][len(cases) // 2].set_xlabel("time of a whole step over adamw's; lines: 10-90 % of the rounds")
        figure.suptitle("Forward, backward and optimizer, network:image size:batch size", fontsize=10)
        figure.set_layout_engine("constrained")
        style.save(figure, path)


def training(name: str, network: Network, params: Params, batch: Any) -> compiled.Runner:
    """A compiled training step with a method round adamw, and what it works on."""
    tx, params = methods.method(name), jax.tree.map(jnp.array, params)
    loss = lambda params, images, labels: jnp.mean(
        optax.softmax_cross_entropy_with_integer_labels(network.logits(params, images), labels)
    )

    # parameters and state first: XLA pairs donated arguments with results of the same shape one after the other
    def step(params: Any, state: Any, batch: Any, held_out: Any) -> tuple[Any, Any]:
        grads = jax.grad(loss)(params, *batch)
        updates, state = tx.update(grads, state, params, held_out_loss=lambda p: loss(p, *held_out))
        return optax.apply_updates(params, updates), state

    state = tx.init(params)
    program = jax.jit(step, donate_argnums=(0, 1)).lower(params, state, batch, batch).compile()
    return compiled.Runner(program, params, state, batch, batch)
