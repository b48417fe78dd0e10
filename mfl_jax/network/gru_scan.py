"""The recurrence of a GRU as a scan over the frames. Shapes as in `gru_recurrence`."""

import jax
import jax.numpy as jnp

_HIGHEST = jax.lax.Precision.HIGHEST  # rounding errors of the states add up over the frames


def states_and_gates(
    projected: jax.Array, kernel: jax.Array, bias: jax.Array, *, with_gates: bool, unroll: int = 1
) -> tuple[jax.Array] | tuple[jax.Array, jax.Array]:
    """Computes the states [shape=(T, D, B, U)], and the gates that `projected_gradient` needs [shape=(T, D, B, 4 * U)].

    The gates are reset, update, new, and the recurrent product of the new gate. `unroll` is the number of frames per iteration of
    the compiled loop.
    """
    units = kernel.shape[1]

    def step(state, projected_t):
        recurrent = jnp.einsum("dbu,dug->dbg", state, kernel, precision=_HIGHEST) + bias[:, None]
        opening = jax.nn.sigmoid(projected_t[..., : 2 * units] + recurrent[..., : 2 * units])
        reset, update = opening[..., :units], opening[..., units:]
        new = jnp.tanh(projected_t[..., 2 * units :] + reset * recurrent[..., 2 * units :])
        state = (1 - update) * new + update * state
        if not with_gates:
            return state, (state,)
        return state, (state, jnp.concatenate([opening, new, recurrent[..., 2 * units :]], axis=-1))

    return jax.lax.scan(step, jnp.zeros((*projected.shape[1:3], units)), projected, unroll=unroll)[1]


def projected_gradient(
    cotangent: jax.Array, before: jax.Array, gates: jax.Array, kernel: jax.Array, *, unroll: int = 1
) -> jax.Array:
    """Computes the gradient with respect to `projected`.

    Args:
      cotangent: of the states [shape=(T, D, B, U)].
      before: the state before each frame [shape=(T, D, B, U)].
      gates: from `states_and_gates` [shape=(T, D, B, 4 * U)].
      kernel: recurrent kernel [shape=(D, U, 3 * U)].
      unroll: as in `states_and_gates`.

    Returns:
      [shape=(T, D, B, 3 * U)].
    """

    def step(state_gradient, frame):
        cotangent_t, before_t, gates_t = frame
        reset, update, new, product = jnp.split(gates_t, 4, axis=-1)
        state_gradient = state_gradient + cotangent_t
        new_gradient = state_gradient * (1 - update) * (1 - jnp.square(new))
        update_gradient = state_gradient * (before_t - new) * update * (1 - update)
        reset_gradient = new_gradient * product * reset * (1 - reset)
        recurrent = jnp.concatenate([reset_gradient, update_gradient, new_gradient * reset], axis=-1)
        earlier = jnp.einsum("dbg,dug->dbu", recurrent, kernel, precision=_HIGHEST)
        projected = jnp.concatenate([reset_gradient, update_gradient, new_gradient], axis=-1)
        return state_gradient * update + earlier, projected

    start = jnp.zeros(cotangent.shape[1:])
    return jax.lax.scan(step, start, (cotangent, before, gates), reverse=True, unroll=unroll)[1]
