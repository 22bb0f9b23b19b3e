"""What a whole training step costs, forward, backward and optimizer, round adamw: each method over adamw alone.

FTP's claim is a step without TPGM's second forward and backward pass, which TPGM spends on a held-out batch of the same
size. All steps of a case run in turn in one process, the order reversed from round to round; times are told as ratios
of medians, with the 10th and 90th percentile of the ratios round by round. Temporary memory is that of the program,
activations and gradients included.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import style
import writer
from cost import compiled, methods, networks
from cost.methods import MethodName
from style import plt

CASES = ("vit-small:64:16", "vit-small:96:32", "vit-base:64:16", "efficientnet-lite0:64:16", "efficientnet-lite0:96:32")
COLUMNS = ("network", "step", "ms", "over adamw", "10-90 %", "least", "over tpgm", "temporary", "flops over adamw")


@dataclasses.dataclass(frozen=True)
class Options(writer.Recorded):
    """Measures whole training steps, each method over adamw."""

    cases: tuple[str, ...] = CASES  # What to train, as network:image size:batch size.
    # Methods round adamw.
    methods: tuple[MethodName, ...] = ("ftp", "ftp-lean", "digrap", "spd", "pgm", "l2-sp", "tpgm")
    runs: int = 20  # Rounds; each runs every step of a case once.
    resume: bool = False  # Keep the cases that an earlier run on this machine left, and add what is missing.

    def run(self) -> None:
        """Measures, then tabulates and draws."""
        path = self.results / "train_step.json"
        if not self.report:
            rows = writer.recorded(path, self.resume)
            for case in ("vit-small:32:2",) if self.smallest else self.cases:
                if case not in {row["case"] for row in rows}:
                    rows += _measure(
                        case, (methods.BASE, *self.methods), 3 if self.smallest else self.runs, self.smallest
                    )
                    writer.write(path, {"environment": writer.environment(), "rows": rows})
        _draw(writer.write_page(path, page)["rows"], path.with_suffix(".png"))


class Training:
    """A compiled training step with arrays to work on: every call makes one step and waits for it."""

    def __init__(self, name: str, run: Callable[..., jax.Array], params: Any, batch: Any):
        tx = methods.method(name, methods.base("adamw"))
        loss = lambda params, images, labels: jnp.mean(
            optax.softmax_cross_entropy_with_integer_labels(run(params, images), labels)
        )

        # parameters and state first: XLA pairs donated arguments with results of the same shape one after the other
        def step(params: Any, state: Any, batch: Any, held_out: Any) -> tuple[Any, Any]:
            grads = jax.grad(loss)(params, *batch)
            extra = {"held_out_loss": lambda p: loss(p, *held_out)} if name == "tpgm" else {}
            updates, state = tx.update(grads, state, params, **extra)
            return optax.apply_updates(params, updates), state

        self.params = jax.tree.map(jnp.array, params)
        self.state, self.batch = tx.init(self.params), batch
        self.program: Any = jax.jit(step, donate_argnums=(0, 1)).lower(self.params, self.state, batch, batch).compile()
        self.flops = self.program.cost_analysis()["flops"]

    def __call__(self) -> None:
        self.params, self.state = jax.block_until_ready(self.program(self.params, self.state, self.batch, self.batch))


def _measure(case: str, names: tuple[str, ...], runs: int, smallest: bool) -> list[dict[str, Any]]:
    """One row for adamw and one for each method, of one network and batch."""
    network, image_size, batch_size = case.split(":")
    size, examples = int(image_size), int(batch_size)
    run, params = networks.network(network, size, smallest=smallest)  # pyright: ignore[reportArgumentType]
    draw = np.random.default_rng(0)
    images = jnp.asarray(draw.uniform(0, 255, (examples, size, size, 3)), jnp.float32)
    batch = images, jnp.asarray(draw.integers(networks.CLASSES, size=examples))
    trainings = {name: Training(name, run, params, batch) for name in names}
    times = compiled.in_turn(trainings, runs)
    over = lambda other, name: compiled.ratio(times[other], times[name]) if other in times else None
    return [
        {
            "case": case,
            "parameters": sum(x.size for x in jax.tree.leaves(params)),
            "method": name,
            "over_adamw": over(methods.BASE, name),
            "over_tpgm": over("tpgm", name),
            "temporary_bytes": training.program.memory_analysis().temp_size_in_bytes,
            "flops_over_adamw": training.flops / trainings[methods.BASE].flops,
        }
        for name, training in trainings.items()
    ]


def page(result: dict[str, Any]) -> str:
    """All rows, and where they were measured."""
    return (
        f"{writer.markdown(COLUMNS, [_cells(row) for row in result['rows']])}\n{writer.origin(result['environment'])}"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    time, tpgm = row["over_adamw"], row["over_tpgm"]
    return [
        row["case"],
        "adamw" if row["method"] == methods.BASE else row["method"],
        f"{1e3 * time['seconds']:.0f}",
        f"{time['ratio']:.3f}",
        "{:.2f}-{:.2f}".format(*time["spread"]),
        f"{time['ratio_of_minima']:.3f}",
        "-" if tpgm is None else f"{tpgm['ratio']:.2f}",
        f"{row['temporary_bytes'] / 1e6:.0f}",
        f"{row['flops_over_adamw']:.2f}",
    ]


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    """One panel a case: every method's time over adamw's, with its spread."""
    rows = [row for row in rows if row["method"] != methods.BASE]
    cases, names = (list(dict.fromkeys(row[key] for row in rows)) for key in ("case", "method"))
    names = names[::-1]
    size = (2.6 + 2.1 * len(cases), 1.6 + 0.34 * len(names))
    figure, panels = plt.subplots(1, len(cases), figsize=size, sharey=True, sharex=True, squeeze=False)
    for row in rows:
        panel, place, time = panels[0][cases.index(row["case"])], names.index(row["method"]), row["over_adamw"]
        look = style.of(row["method"])
        panel.plot(time["spread"], [place] * 2, color=look["color"], lw=1)
        panel.plot(time["ratio"], place, **look)
    for panel, case in zip(panels[0], cases, strict=True):
        panel.axvline(1, color="#444444", lw=0.8)
        panel.set_yticks(range(len(names)), names)
        panel.set_title(case, fontsize=9)
        style.clean(panel)
    panels[0][len(cases) // 2].set_xlabel("time of a whole step over adamw's; lines: 10-90 % of the rounds")
    figure.suptitle("Forward, backward and optimizer, network:image size:batch size", fontsize=10)
    figure.set_layout_engine("constrained")
    style.save(figure, path)
