"""Bidirectional gated recurrent unit in cuDNN's form, for the event head."""

import jax
import jax.numpy as jnp
from flax import nnx


class BiGRU(nnx.Module):
    """One GRU forwards and one backwards over the frames, with concatenated states.

    With input x_t, previous state h, elementwise product *, the kernels W and U, and the two bias vectors b and c of cuDNN's form
    (the reset gate multiplies the recurrent product including its bias):

        r = sigmoid(W_r x_t + b_r + U_r h + c_r)
        u = sigmoid(W_u x_t + b_u + U_u h + c_u)
        n = tanh(W_n x_t + b_n + r * (U_n h + c_n))
        h_t = (1 - u) * n + u * h

    The input products of all frames are one matrix product before the scan, and both directions share one scan.
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

    def __call__(self, x: jax.Array) -> jax.Array:
        """[shape=(B, T, inputs)] -> float32 [shape=(B, T, 2 * units)]; the dtype of x is that of the input products only."""
        units = self.units
        input_kernel = self.input_kernel[...].astype(x.dtype)
        projected = jnp.einsum("bti,dig->tdbg", x, input_kernel, preferred_element_type=jnp.float32)
        projected += self.input_bias[...][:, None]
        # The backward direction reads the frames from the last to the first.
        projected = jnp.stack([projected[:, 0], projected[::-1, 1]], axis=1)  # [T, 2, B, 3 * units]
        recurrent_kernel, recurrent_bias = self.recurrent_kernel[...], self.recurrent_bias[...][:, None]

        def step(h, projected_t):
            recurrent = jnp.einsum("dbh,dhg->dbg", h, recurrent_kernel) + recurrent_bias
            gates = jax.nn.sigmoid(projected_t[..., : 2 * units] + recurrent[..., : 2 * units])
            reset, update = gates[..., :units], gates[..., units:]
            new = jnp.tanh(projected_t[..., 2 * units :] + reset * recurrent[..., 2 * units :])
            h = (1 - update) * new + update * h
            return h, h

        start = jnp.zeros((2, x.shape[0], units), projected.dtype)
        _, states = jax.lax.scan(step, start, projected)  # [T, 2, B, units]
        both = jnp.concatenate([states[:, 0], states[::-1, 1]], axis=-1)  # [T, B, 2 * units]
        return jnp.swapaxes(both, 0, 1)
