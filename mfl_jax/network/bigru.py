"""Bidirectional gated recurrent unit in cuDNN's form, for the event head."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mfl_jax.network.gru_recurrence import recurrence

KEEP_STATE = 1e4
"""Input of an update gate that keeps the state: its sigmoid is 1 in float32, whatever the recurrent product adds."""


class BiGRU(nnx.Module):
    """One GRU forwards and one backwards over the frames, with concatenated states.

    With input x_t, previous state h, elementwise product *, the kernels W and U, and the two bias vectors b and c of cuDNN's form
    (the reset gate multiplies the recurrent product including its bias):

        r = sigmoid(W_r x_t + b_r + U_r h + c_r)
        u = sigmoid(W_u x_t + b_u + U_u h + c_u)
        n = tanh(W_n x_t + b_n + r * (U_n h + c_n))
        h_t = (1 - u) * n + u * h

    In padded frames a large b_u sets u to 1, which keeps the state: the backward direction starts at the last valid frame.

    The input products of all frames are one matrix product before the recurrence, which both directions share.
    The leading axis of every parameter is the direction, 0 forwards and 1 backwards. The gates are in the order r, u, n.
    """

    def __init__(self, inputs: int, units: int, *, rngs: nnx.Rngs):
        """Builds the layer.

        Args:
          inputs: values per frame.
          units: units per direction.
          rngs: random keys, stream `params`.
        """
        self.units = units
        input_init = nnx.initializers.glorot_uniform(in_axis=1, out_axis=2, batch_axis=0)
        orthogonal = nnx.initializers.orthogonal()

        def recurrent_init(key, shape, dtype):
            gates = [orthogonal(k, (units, units), dtype) for k in jax.random.split(key, 6)]
            return jnp.stack([jnp.concatenate(gates[:3], axis=1), jnp.concatenate(gates[3:], axis=1)]).reshape(shape)

        self.input_kernel = nnx.Param(input_init(rngs.params(), (2, inputs, 3 * units), jnp.float32))
        self.recurrent_kernel = nnx.Param(recurrent_init(rngs.params(), (2, units, 3 * units), jnp.float32))
        self.input_bias = nnx.Param(jnp.zeros((2, 3 * units), jnp.float32))
        self.recurrent_bias = nnx.Param(jnp.zeros((2, 3 * units), jnp.float32))

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """Computes the states of both directions.

        Args:
          x: [shape=(B, T, inputs)]; its dtype is that of the input products only.
          mask: bool [shape=(B, T)], False for padded frames, which come after the valid ones.

        Returns:
          float32 [shape=(B, T, 2 * units)].
        """
        units = self.units
        input_kernel = self.input_kernel[...].astype(x.dtype)
        projected = jnp.einsum("bti,dig->tdbg", x, input_kernel, preferred_element_type=jnp.float32)
        projected += self.input_bias[...][:, None]
        is_update_gate = np.arange(3 * units) // units == 1
        projected = jnp.where(mask.T[:, None, :, None] | ~is_update_gate, projected, KEEP_STATE)
        # The backward direction reads the frames from the last to the first.
        projected = jnp.stack([projected[:, 0], projected[::-1, 1]], axis=1)  # [T, 2, B, 3 * units]
        with jax.named_scope("recurrence"):  # profiles name the operations after it
            states = recurrence(projected, self.recurrent_kernel[...], self.recurrent_bias[...])  # [T, 2, B, units]
        both = jnp.concatenate([states[:, 0], states[::-1, 1]], axis=-1)  # [T, B, 2 * units]
        return jnp.swapaxes(both, 0, 1)
