"""The log-mel spectrogram as a part of a network: what `features` computes, in operations that JAX traces and ONNX has.

The Fourier transform is a matrix product, which runs wherever the network does.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mfl_jax.data import mel_spectrogram


def fourier_bases(mel) -> tuple[np.ndarray, np.ndarray]:
    """The windowed Fourier transform as two matrices, for a window folded at its middle.

    The Hann window of N samples is w[n] = w[N - n], and w[0] = 0. Counted from its middle, where the phase is of no matter to
    the power, the real part is a sum over n = 1 ... N // 2 of w[n] (x[N - n] + x[n]) cos, and the imaginary part one of
    w[n] (x[N - n] - x[n]) sin: half the products, and half the rounding.

    Args:
      mel: a `MelConfig`.

    Returns:
      Those cosines and sines, with their w[n], float32 [shape=(N // 2, fft_samples // 2 + 1)].
    """
    n = np.arange(1, mel.window_samples // 2 + 1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / mel.window_samples)
    hann[2 * n == mel.window_samples] /= 2  # the middle is a pair with itself
    from_middle = mel.window_samples / 2 - n
    angle = 2 * np.pi / mel.fft_samples * from_middle[:, None] * np.arange(mel.fft_samples // 2 + 1)
    return (hann[:, None] * np.cos(angle)).astype(np.float32), (hann[:, None] * np.sin(angle)).astype(np.float32)


def margins(mel) -> tuple[int, int]:
    """Samples of silence that the windows of a clip reach into, before and after it."""
    return mel.window_samples // 2 - mel.hop_samples // 2, -(-mel.window_samples // 2) + (-mel.hop_samples // 2)


def log_mel(waveform, mel):
    """`features.log_mel` of several clips, as a pure function that JAX can trace.

    Args:
      waveform: float32 [shape=(B, frames * hop_samples)]. mel: a `MelConfig`.

    Returns:
      float32 [shape=(B, frames, mel_bins)].
    """

    def exactly(a, b):
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    padded = jnp.pad(waveform, ((0, 0), margins(mel)))
    start = jnp.arange(waveform.shape[1] // mel.hop_samples)[:, None] * mel.hop_samples
    n = jnp.arange(1, mel.window_samples // 2 + 1)
    left = padded.at[:, start + n].get(mode="promise_in_bounds")  # [B, T, N / 2]
    right = padded.at[:, start + mel.window_samples - n].get(mode="promise_in_bounds")
    cosines, sines = fourier_bases(mel)
    power = jnp.square(exactly(right + left, cosines)) + jnp.square(exactly(right - left, sines))
    return jnp.log(exactly(power, mel_spectrogram.mel_filters(mel).T) + np.float32(mel.floor))
