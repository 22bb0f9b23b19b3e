"""Our own short version of the methods in torch, which `docs/from_torch.md` compares with this library.

    python docs/torch_side.py      # replays the recorded traces; needs torch, which this project does not install

It is written for reading and for the comparison, not for use.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

TRACES = Path(__file__).parents[1] / "tests" / "data"


def unit_norms(x: torch.Tensor) -> torch.Tensor:
    """The l1 norm of every output neuron [out, ...]; a vector is one unit."""
    return x.abs().sum(dim=tuple(range(1, x.ndim)) if x.ndim > 1 else (0,), keepdim=True)


class FTP:
    """Projects after each step of any torch optimizer."""

    def __init__(self, optimizer: Any, anchors: Mapping[Any, torch.Tensor], kappa: float = 1.0) -> None:
        self.optimizer, self.anchors, self.kappa = optimizer, anchors, kappa
        self.gamma = {p: torch.full((), 1e-8, dtype=p.dtype) for p in anchors}
        self.adam = torch.optim.Adam(self.gamma.values(), lr=1e-2)
        self.last = {p: torch.zeros_like(p) for p in anchors}

    @torch.no_grad()
    def step(self) -> None:
        for p, gamma in self.gamma.items():
            h = (p.grad * self.last[p] / (unit_norms(self.last[p]) + 1e-8)).sum()
            gamma.grad = self.kappa * h if h > 0 else h
        self.adam.step()
        self.optimizer.step()
        for p, w0 in self.anchors.items():
            c = p - w0
            n = unit_norms(c) + 1e-8
            self.gamma[p].copy_(self.gamma[p].clamp(min=1e-8).minimum(n.max()))
            p.copy_(w0 + (self.gamma[p] / n).clamp(max=1) * c)
            self.last[p] = c


class DiGraP:
    """Removes the component that conflicts with the anchor from the gradients, before each step of any optimizer."""

    def __init__(self, optimizer: Any, anchors: Mapping[Any, torch.Tensor], mu: float = 0.5) -> None:
        self.optimizer, self.anchors = optimizer, anchors
        self.omega = {p: torch.zeros((), dtype=p.dtype) for p in anchors}
        self.adam = torch.optim.Adam(self.omega.values(), lr=mu)
        self.last = {p: torch.zeros_like(p) for p in anchors}

    @torch.no_grad()
    def step(self) -> None:
        cosine = torch.nn.functional.normalize
        for p, omega in self.omega.items():
            omega.grad = (cosine(p.grad, dim=1) * cosine(self.last[p], dim=1)).sum()
        self.adam.step()
        for p, w0 in self.anchors.items():
            self.omega[p].clamp_(0, 1)
            c = p - w0
            dot, square = (p.grad * c).sum(), c.square().sum()
            self.last[p] = dot / (square + 1e-8) * c
            if dot < 0:
                p.grad -= self.omega[p] * dot / square * c
        self.optimizer.step()


class SPD:
    """Decays the layers that a step moved further from the anchor."""

    def __init__(self, optimizer: Any, anchors: Mapping[Any, torch.Tensor], strength: float) -> None:
        self.optimizer, self.anchors, self.strength = optimizer, anchors, strength

    @torch.no_grad()
    def step(self) -> None:
        before = {p: p - w0 for p, w0 in self.anchors.items()}
        uphill = {p: (p.grad * before[p]).sum() > 0 for p in before}
        self.optimizer.step()
        for p, w0 in self.anchors.items():
            c = p - w0
            grown = ((c.norm() - before[p].norm()) / c.norm()).clamp(0, 1)
            if uphill[p]:
                p -= self.strength * grown * c


class TPGM:
    """Learns the radii by differentiating a held-out loss through the projection."""

    def __init__(self, optimizer: Any, anchors: Mapping[Any, torch.Tensor]) -> None:
        self.optimizer, self.anchors = optimizer, anchors
        self.gamma: dict[Any, torch.Tensor] = {}

    def step(self, held_out_loss: Callable[[dict[Any, torch.Tensor]], torch.Tensor]) -> None:
        self.optimizer.step()
        c = {p: (p - w0).detach() for p, w0 in self.anchors.items()}
        if not self.gamma:
            self.gamma = {p: (unit_norms(c[p]).min() / 2).requires_grad_() for p in c}
            self.adam = torch.optim.Adam(self.gamma.values(), lr=1e-2)
        for p, gamma in self.gamma.items():
            gamma.data.copy_(gamma.clamp(min=1e-8).minimum(unit_norms(c[p]).max()))
        ratio = lambda p: (self.gamma[p] / (unit_norms(c[p]) + 1e-8)).clamp(0, 1)
        self.adam.zero_grad()
        held_out_loss({p: w0 + ratio(p) * c[p] for p, w0 in self.anchors.items()}).backward()  # a second pass
        self.adam.step()
        with torch.no_grad():
            for p, w0 in self.anchors.items():
                p.copy_(w0 + ratio(p) * c[p])


def replay(name: str, method: Callable[[dict[str, Any], dict[str, Any], dict[Any, Any]], Any]) -> float:
    """Feeds a trace's gradients; the largest difference of any parameter from the recorded run."""
    trace = json.loads((TRACES / f"{name}.json").read_text())
    tensor = lambda x: torch.tensor(x, dtype=torch.float64)
    params = {k: torch.nn.Parameter(tensor(v)) for k, v in trace["init"].items()}
    anchors = {params[k]: tensor(v) for k, v in trace["pre"].items() if k not in trace.get("exclude", ())}
    tx, worst = method(trace["kw"], params, anchors), 0.0
    for step in trace["steps"]:
        for k, p in params.items():
            p.grad = tensor(step["grad"][k])
        tx.step()
        worst = max(worst, *((p.detach() - tensor(step["param"][k])).abs().max().item() for k, p in params.items()))
    return worst


def _adam(kw: dict[str, Any], params: dict[str, Any], decay: float = 0.0) -> Any:
    return torch.optim.AdamW(params.values(), lr=kw["lr"], weight_decay=decay)


def _sgd(kw: dict[str, Any], params: dict[str, Any]) -> Any:
    return torch.optim.SGD(params.values(), lr=kw["lr"], momentum=kw["momentum"], nesterov=kw["nesterov"])


def main() -> None:
    """Prints how far each method is from the recorded run of the released code, in float64."""
    methods: dict[str, Callable[..., Any]] = {
        "adamp_k1": lambda kw, p, a: FTP(_adam(kw, p), a, kw["k"]),
        "adamp_k05_wd": lambda kw, p, a: FTP(_adam(kw, p, kw["weight_decay"]), a, kw["k"]),
        "sgdp_nesterov": lambda kw, p, a: FTP(_sgd(kw, p), a, kw["k"]),
        "spcg_mu0.1": lambda kw, p, a: DiGraP(_adam(kw, p), a, kw["mu"]),
        "spd_wd1": lambda kw, p, a: SPD(_adam(kw, p), a, kw["weight_decay"]),
    }
    for name, method in methods.items():
        worst = replay(name, method)
        print(f"{name:15} {worst:.1e}")
        assert worst < 1e-12, name


if __name__ == "__main__":
    main()
