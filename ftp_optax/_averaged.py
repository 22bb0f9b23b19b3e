"""The average of the weights over a training run, kept in the optimizer's state."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from ftp_optax import _anchor, _checks, _show, _trees, _units

Kind = Literal["uniform", "polynomial", "ema"]


@_show.readable
class AveragedState(NamedTuple):
    """State of `averaged`.

    Attributes:
      average: the average so far, in at least float32; `optax.MaskedNode` at leaves that are not floating-point.
      averaged_steps: the number of updates so far, including those before ``start``.
      inner_state: the state of ``inner``.
    """

    average: Any
    averaged_steps: jax.Array
    inner_state: optax.OptState

    def restart(self, params: optax.Params) -> "AveragedState":
        """The state that `reanchor` returns: the average restarts at the params."""
        steps = jax.tree.map(jnp.zeros_like, self.averaged_steps)
        return self._replace(average=_anchor.refresh(self.average, params), averaged_steps=steps)


def newest_share(
    number: jax.Array, kind: Kind, eta: float | jax.Array = 0.0, decay: float | jax.Array = 0.0
) -> jax.Array:
    """``w_k``: the weight of the k-th averaged parameters in the average of the first k."""
    if kind == "ema":
        rate = jnp.log(decay)
        share = jnp.expm1(rate) / jnp.expm1(number * rate)  # (1 - beta) / (1 - beta^k), exact also for beta near 1
    else:
        eta = 0.0 if kind == "uniform" else eta
        share = (1 + eta) / (number + eta)
    return share.astype(number.dtype)


@jax.jit
def moved_average(average: jax.Array, param: jax.Array, update: jax.Array, share: jax.Array) -> jax.Array:
    """``A + w (W - A)``, where ``W`` is the parameter after the update; ``W`` itself where ``w`` is 1."""
    reached = (param + update).astype(param.dtype).astype(average.dtype)
    if param.dtype == jnp.bfloat16:  # in a loop XLA keeps digits that bfloat16 does not have
        reached = jax.lax.reduce_precision(reached, exponent_bits=8, mantissa_bits=7)
    return jnp.where(share < 1, average + share * (reached - average), reached)


def averaged(
    inner: optax.GradientTransformation,
    *,
    kind: Kind = "uniform",
    start: int | jax.Array = 0,
    eta: float | jax.Array = 3.0,
    decay: float | jax.Array = 0.999,
) -> optax.GradientTransformationExtraArgs:
    r"""Keeps the average of the parameters over the run. It does not change the training.

    Let :math:`W_t` be the parameters after step `t` and :math:`k = \max(1, t - \mathrm{start})`:

    .. math::

      A_t = A_{t-1} + w_k (W_t - A_{t-1}), \qquad
      w_k = \frac{1}{k}, \quad \frac{1 + \eta}{k + \eta} \quad \text{or} \quad \frac{1 - \beta}{1 - \beta^k}

    The three weights :math:`w_k` are those of the three kinds:

    - ``"uniform"``: the mean of :math:`W_{\mathrm{start}+1}, \dots, W_t`;
    - ``"polynomial"``: a mean with smaller weights for early steps;
    - ``"ema"``: the exponential moving average with bias correction.

    :math:`w_1 = 1`, so the average is :math:`W_t` itself until step ``start + 1``.

    Put it around the whole optimizer, ``averaged(optax.chain(optax.clip_by_global_norm(1.0), ftp(...)))``. The average
    does not include the effect of a later link of the chain. Put `optax.MultiSteps` and `optax.apply_if_finite` around
    it. It does not count the steps that they hold back. `averaged_params` returns the parameters to evaluate.

    Running statistics, such as those of batch normalisation, belong to the weights that they were computed with. If
    they keep their pre-trained values, change nothing. If they follow the training images, compute them again for the
    averaged parameters, with one pass over training images.

    Args:
      inner: the optimizer; any optax transformation. It receives every leaf and all extra arguments.
      kind: ``"uniform"`` (default), ``"polynomial"`` or ``"ema"``.
      start: the number of steps before the first averaged one, not negative.
      eta: eta of ``"polynomial"``, not negative. 0 gives ``"uniform"``.
      decay: beta of ``"ema"``, in [0, 1). The average covers about ``1 / (1 - decay)`` steps.

    Returns:
      An `optax.GradientTransformationExtraArgs` with an `AveragedState`. The updates are those of ``inner``.

    Raises:
      ValueError: for arguments out of range; in `update` without params, or if the trees do not fit each other.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from ftp_optax import averaged, averaged_params
      >>> params = {"bias": jnp.array([0.0])}
      >>> tx = averaged(optax.sgd(1.0))
      >>> state = tx.init(params)
      >>> for gradient in (-2.0, 1.0):
      ...     updates, state = tx.update({"bias": jnp.array([gradient])}, state, params)
      ...     params = optax.apply_updates(params, updates)
      >>> params, averaged_params(state, params)
      ({'bias': Array([1.], dtype=float32)}, {'bias': Array([1.5], dtype=float32)})

    References:
      Polyak and Juditsky, `Acceleration of Stochastic Approximation by Averaging
      <https://doi.org/10.1137/0330046>`_, 1992. Polynomial weights: Shamir and Zhang, `Stochastic Gradient Descent for
      Non-smooth Optimization <https://arxiv.org/abs/1212.1824>`_, ICML 2013. In deep networks: Izmailov et al.,
      `Averaging Weights Leads to Wider Optima and Better Generalization <https://arxiv.org/abs/1803.05407>`_ (SWA), UAI
      2018; Cha et al., `SWAD: Domain Generalization by Seeking Flat Minima <https://arxiv.org/abs/2102.08604>`_,
      NeurIPS 2021, which averages every step for other domains; Kaddour, `Stop Wasting My Time!
      <https://arxiv.org/abs/2209.14981>`_ (LAWA), 2022, which averages recent checkpoints; ``"ema"`` needs none.

    .. note::
      Similar functions do something else. `optax.ema` averages updates. `optax.incremental_update` and ``flax.nnx.EMA``
      are one step of an exponential average, without bias correction, in the parameters' own dtype and outside the
      optimizer's state. `optax.contrib.schedule_free` computes its gradients at other points than the plain optimizer.
      Leaves that are not real floating-point numbers are not averaged.
    """
    _checks.transformations("averaged", inner=inner)
    _checks.choices("averaged", ("uniform", "polynomial", "ema"), kind=kind)
    _checks.numbers("averaged", "be finite and not negative", start=start, eta=eta)
    _checks.numbers("averaged", "lie in [0, 1)", decay=decay)
    inner = optax.with_extra_args_support(inner)

    def init_fn(params: optax.Params) -> AveragedState:
        leaves = _trees.flatten(params)
        copies = {
            i: jnp.array(value, _units.wide_dtype(value), copy=True)
            for i, (path, value) in enumerate(zip(leaves.paths, leaves.values, strict=True))
            if not _trees.is_masked(value)
            and jnp.issubdtype(_checks.dtype_of(value, path, "averaged: params"), jnp.floating)
        }
        return AveragedState(leaves.masked(copies), jnp.zeros([], jnp.int32), inner.init(params))

    def update_fn(
        updates: optax.Updates, state: Any, params: optax.Params | None = None, **extra_args: Any
    ) -> tuple[optax.Updates, AveragedState]:
        _checks.states("averaged", state, AveragedState)
        if params is None:
            raise ValueError("averaged: update needs the current parameters: call tx.update(grads, state, params).")
        leaves, averages = _trees.flatten(params), _trees.flatten(state.average)
        _trees.require_same(averages, leaves, "averaged: the state")
        record = _trees.aligned(averages, leaves, "averaged: the state")
        step, inner_state = inner.update(updates, state.inner_state, params, **extra_args)
        steps = _trees.flatten(step)
        _trees.require_same(steps, leaves, "averaged: the update")
        count = jnp.asarray(optax.safe_increment(state.averaged_steps))
        number = jnp.maximum(count - start, 1)
        new = {}
        for i, average in enumerate(record):
            if not _trees.is_masked(average):
                share = newest_share(number.astype(average.dtype), kind, eta, decay)
                new[i] = moved_average(average, jnp.asarray(leaves.values[i]), steps.values[i], share)
        return step, AveragedState(averages.replaced(new), count, inner_state)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def averaged_params(state: optax.OptState, params: optax.Params) -> optax.Params:
    """The averaged parameters, to evaluate or save instead of the last ones.

    Args:
      state: the optimizer state, or any pytree that holds the states of one or more `averaged`.
      params: the parameters, for their structure and dtypes, and for the leaves that are not averaged.

    Returns:
      A tree like the params. The averages are copied, so the state can be donated.

    Raises:
      ValueError: if the state holds no average, or if the params do not fit it.

    Example:
      >>> import jax.numpy as jnp, optax
      >>> from ftp_optax import averaged, averaged_params, ftp
      >>> params = {"kernel": jnp.ones((2, 3), jnp.bfloat16)}
      >>> state = averaged(ftp(optax.sgd(0.1))).init(params)
      >>> averaged_params(state, params)["kernel"].dtype
      dtype(bfloat16)

    References:
      Those of `averaged`.
    """
    states = _anchor.states_in(state, "average")
    if not states:
        raise ValueError("averaged_params: the state holds no average; pass the state of an optimizer with averaged.")
    leaves, found = _trees.flatten(params), {}
    for one in states:  # several with `optax.partition`, one for each group
        record = _trees.aligned(_trees.flatten(one.average), leaves, "averaged_params: the state")
        for i, value in enumerate(record):
            if not _trees.is_masked(value) and i not in found:
                found[i] = jnp.array(value, jnp.result_type(leaves.values[i]), copy=True)
    return leaves.replaced(found)
