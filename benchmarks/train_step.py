"""What a whole training step costs, forward, backward and optimizer, round adamw: each method over adamw alone.

    python benchmarks/train_step.py                                            # everything
    python benchmarks/train_step.py --cases vit-small:64:16 --methods ftp tpgm # network:image size:batch size
    python benchmarks/train_step.py --smallest                                 # tiny ones; its timings mean nothing

FTP's claim is a step without TPGM's second forward and backward pass, which TPGM spends on a held-out batch of the same
size. All steps of a case run in turn in one process, the order reversed from round to round; times are told as ratios
of medians, with the 10th and 90th percentile of the ratios round by round. Temporary memory is that of the program,
activations and gradients included.
"""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tyro
from matplotlib import pyplot as plt

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))  # for the networks' `vision`

from measure import methods, networks, report, style, timing
from measure.methods import MethodName

CASES = (
    "vit-small:64:16",
    "vit-small:96:32",
    "vit-base:64:16",
    "efficientnet-lite0:64:16",
    "efficientnet-lite0:96:32",
)
CAPTION = (
    "Over adamw: the median over adamw's, 10-90 %: of the ratios round by round. Over tpgm: likewise; the paper tells "
    "of 0.65 for ftp. Temporary: MB that XLA takes beside arguments and results."
)
COLUMNS = ("step", "ms", "over adamw", "10-90 %", "least", "over tpgm", "temporary", "flops over adamw")


@dataclasses.dataclass(frozen=True)
class Options:
    """Measures whole training steps, each method over adamw."""

    cases: tuple[str, ...] = CASES
    """What to train, as network:image size:batch size."""

    methods: tuple[MethodName, ...] = ("ftp", "ftp-lean", "digrap", "spd", "pgm", "l2-sp", "tpgm")
    """Methods round adamw."""

    runs: int = 20
    """Rounds; each runs every step of a case once."""

    results: Path = report.RESULTS
    """Where train_step.json and train_step.png are written."""

    resume: bool = False
    """Keep the cases of train_step.json that an earlier run on this machine left, and add what is missing."""

    smallest: bool = False
    """One tiny case and three rounds."""


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
        step = jax.jit(step, donate_argnums=(0, 1))
        self.program = step.lower(self.params, self.state, batch, batch).compile()

    def __call__(self) -> None:
        self.params, self.state = jax.block_until_ready(self.program(self.params, self.state, self.batch, self.batch))


def main() -> None:
    """Measures, then tabulates and draws."""
    options = tyro.cli(Options)
    cases = ("vit-small:32:2",) if options.smallest else options.cases
    names, path = (methods.BASE, *options.methods), options.results / "train_step.json"
    rows = report.recorded(path, options.resume)
    with report.progress() as progress:
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=case)
            if case not in {row["case"] for row in rows}:
                rows += _measure(case, names, options)
                report.write(path, {"environment": report.environment(), "rows": rows})
            progress.advance(task)
    report.write_page(path, page)
    _print(rows)
    _draw(rows, options.results / "train_step.png")


def _measure(case: str, names: tuple[str, ...], options: Options) -> list[dict[str, Any]]:
    """One row for adamw and one for each method, of one network and batch."""
    network, image_size, batch_size = case.split(":")
    size, examples = int(image_size), int(batch_size)
    run, params = networks.network(network, size, smallest=options.smallest)  # pyright: ignore[reportArgumentType]
    draw = np.random.default_rng(0)
    images = jnp.asarray(draw.uniform(0, 255, (examples, size, size, 3)), jnp.float32)
    batch = images, jnp.asarray(draw.integers(networks.CLASSES, size=examples))
    trainings = {name: Training(name, run, params, batch) for name in names}
    times = timing.in_turn(trainings, 3 if options.smallest else options.runs)
    facts = {"case": case, "parameters": sum(x.size for x in jax.tree.leaves(params))}
    return [facts | _row(name, training, trainings, times) for name, training in trainings.items()]


def _row(name: str, training: Training, all_of_them: dict[str, Training], times: dict[str, list[float]]) -> Any:
    flops = lambda training: training.program.cost_analysis()["flops"]
    over = lambda other: dataclasses.asdict(timing.ratio(times[other], times[name])) if other in times else None
    memory: Any = training.program.memory_analysis()
    return {
        "method": name,
        "over_adamw": over(methods.BASE),
        "over_tpgm": over("tpgm"),
        "temporary_bytes": memory.temp_size_in_bytes,
        "flops_over_adamw": flops(training) / flops(all_of_them[methods.BASE]),
    }


def page(result: dict[str, Any]) -> str:
    """What the site shows: a table of all rows, and where they were measured."""
    named = lambda row: "adamw" if row["method"] == methods.BASE else row["method"]
    cells = [[row["case"], named(row), *_cells(row)] for row in result["rows"]]
    return report.markdown(("network", *COLUMNS), cells) + "\n" + report.origin(result["environment"])


def _cells(row: dict[str, Any]) -> list[str]:
    time, tpgm = row["over_adamw"], row["over_tpgm"]
    return [
        f"{1e3 * time['seconds']:.0f}",
        f"{time['ratio']:.3f}",
        "{:.2f}-{:.2f}".format(*time["spread"]),
        f"{time['ratio_of_minima']:.3f}",
        "-" if tpgm is None else f"{tpgm['ratio']:.2f}",
        f"{row['temporary_bytes'] / 1e6:.0f}",
        f"{row['flops_over_adamw']:.2f}",
    ]


def _print(rows: list[dict[str, Any]]) -> None:
    groups: dict[str, list[list[str]]] = {}
    for row in rows:
        label = f"{row['case']} adamw" if row["method"] == methods.BASE else f"  {row['method']}"
        groups.setdefault(row["case"], []).append([label, *_cells(row)])
    report.print_table("A whole training step", CAPTION, COLUMNS, list(groups.values()))


def _draw(rows: list[dict[str, Any]], path: Path) -> None:
    """One panel a case: every method's time over adamw's, with its spread."""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    names = [name for name in dict.fromkeys(row["method"] for row in rows) if name != methods.BASE][::-1]
    size = (2.6 + 2.1 * len(cases), 1.6 + 0.34 * len(names))
    figure, panels = plt.subplots(1, len(cases), figsize=size, sharey=True, sharex=True, squeeze=False)
    for panel, case in zip(panels[0], cases, strict=True):
        for row in rows:
            if row["case"] == case and row["method"] != methods.BASE:
                colour, marker = style.METHODS[row["method"]]
                place, time = names.index(row["method"]), row["over_adamw"]
                panel.plot(time["spread"], [place] * 2, color=colour, lw=1)
                panel.plot(time["ratio"], place, color=colour, marker=marker, ms=6)
        panel.axvline(1, color="#444444", lw=0.8)
        panel.set_yticks(range(len(names)), names)
        panel.set_title(case, fontsize=9)
        style.clean(panel)
    panels[0][len(cases) // 2].set_xlabel("time of a whole step over adamw's; lines: 10-90 % of the rounds")
    figure.suptitle("Forward, backward and optimizer, network:image size:batch size", fontsize=10)
    figure.set_layout_engine("constrained")
    style.save(figure, path)


if __name__ == "__main__":
    main()
