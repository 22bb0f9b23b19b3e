"""FTP and DiGraP once more, in plain NumPy loops over units: what the library must agree with.

Written from the papers' equations and sharing nothing with the library: units are given as lists of index tuples, every
scalar is a Python float, Adam is spelled out.
"""

import itertools

import numpy as np


def units(shape, axes):
    """Index tuples that each select one unit of an array."""
    ranges = [range(n) if a in axes else [slice(None)] for a, n in enumerate(shape)]
    return list(itertools.product(*ranges))


class Adam:
    """Adam on one array, returning the update in optax's sign."""

    def __init__(self, lr, b1=0.9, b2=0.999, eps=1e-8):
        self.lr, self.b1, self.b2, self.eps, self.m, self.v, self.t = lr, b1, b2, eps, 0.0, 0.0, 0

    def __call__(self, g):
        self.t += 1
        self.m = self.b1 * self.m + (1 - self.b1) * g
        self.v = self.b2 * self.v + (1 - self.b2) * g * g
        m, v = self.m / (1 - self.b1**self.t), self.v / (1 - self.b2**self.t)
        return -self.lr * m / (np.sqrt(v) + self.eps)


class FTPLeaf:
    """FTP on one leaf. `constrained=False` is the base optimizer alone."""

    def __init__(self, anchor, axes, base, *, kappa=1.0, hyper_lr=1e-2, exact=False, constrained=True):
        self.anchor, self.units, self.base = anchor.copy(), units(anchor.shape, axes), base
        self.kappa, self.hyper, self.exact, self.constrained = kappa, Adam(hyper_lr), exact, constrained
        self.radius, self.displacement = 1e-8, np.zeros_like(anchor)

    def norm(self, displacement, unit):
        return float(np.sum(np.abs(displacement[unit]))) + 1e-8

    def step(self, param, grad):
        u = self.base(grad)
        if not self.constrained:
            return param + u
        slope = 0.0
        for unit in self.units:
            n = self.norm(self.displacement, unit)
            if not self.exact or n > self.radius:
                slope += float(np.sum(grad[unit] * self.displacement[unit])) / n
        if slope > 0:
            slope *= self.kappa
        moved = self.radius + self.hyper(slope)
        self.displacement = param + u - self.anchor
        norms = [self.norm(self.displacement, unit) for unit in self.units]
        self.radius = min(max(moved, 1e-8), max(norms))
        out = self.anchor.copy()
        for unit, n in zip(self.units, norms, strict=True):
            out[unit] += min(1.0, self.radius / n) * self.displacement[unit]
        return out


class DiGraPLeaf:
    """DiGraP on one leaf, then a base optimizer."""

    def __init__(self, anchor, axes, base, *, hyper_lr=0.5):
        self.anchor, self.units, self.base, self.hyper = anchor.copy(), units(anchor.shape, axes), base, Adam(hyper_lr)
        self.strength, self.projection = 0.0, np.zeros_like(anchor)

    def step(self, param, grad):
        slope = 0.0
        for unit in self.units:
            g, p = grad[unit].ravel(), self.projection[unit].ravel()
            slope += float(g @ p) / max(np.linalg.norm(g), 1e-12) / max(np.linalg.norm(p), 1e-12)
        self.strength = min(max(self.strength + self.hyper(slope), 0.0), 1.0)
        c = param - self.anchor
        dot, square = float(np.sum(grad * c)), float(np.sum(c * c))
        self.projection = dot / (square + 1e-8) * c
        if dot < 0:
            grad = grad - self.strength * dot / square * c
        return param + self.base(grad)
