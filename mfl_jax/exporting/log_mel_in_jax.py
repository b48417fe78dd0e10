"""The log-mel spectrogram as part of a network: `data.mel_spectrogram` in operations that JAX can trace and ONNX has.

The Fourier transform is a matrix product, which runs on every backend.
"""

import jax
import jax.numpy as jnp
import numpy as np

from mfl_jax.data import mel_spectrogram
from mfl_jax.data.mel_spectrogram import MelConfig


def build_fourier_bases(mel: MelConfig) -> tuple[np.ndarray, np.ndarray]:
    """Builds the windowed Fourier transform as two matrices, for a window folded at its middle.

    The Hann window of N samples is w[n] = w[N - n], and w[0] = 0. Relative to the middle of the window (the phase does not
    affect the power) the real part is the sum over n = 1 ... N // 2 of w[n] (x[N - n] + x[n]) cos, and the imaginary part
    that of w[n] (x[N - n] - x[n]) sin. Folding halves the products and the rounding error.

    Returns:
      The cosines and the sines, both multiplied by w[n], float32 [shape=(N // 2, fft_samples // 2 + 1)].
    """
    n = np.arange(1, mel.window_samples // 2 + 1)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / mel.window_samples)
    hann[2 * n == mel.window_samples] /= 2  # the middle sample is paired with itself
    from_middle = mel.window_samples / 2 - n
    angle = 2 * np.pi / mel.fft_samples * from_middle[:, None] * np.arange(mel.fft_samples // 2 + 1)
    return (hann[:, None] * np.cos(angle)).astype(np.float32), (hann[:, None] * np.sin(angle)).astype(np.float32)


def compute_margins(mel: MelConfig) -> tuple[int, int]:
    """Returns how many samples the windows of a clip reach beyond its start and beyond its end."""
    return mel.window_samples // 2 - mel.hop_samples // 2, -(-mel.window_samples // 2) + (-mel.hop_samples // 2)


def _cut_windows(waveform, mel):
    """Cuts the window of each frame: [shape=(B, frames, window_samples)].

    A window consists of consecutive hops. Reshaping and joining hops is a copy on every device; to gather samples by their
    numbers is not.
    """
    frames, hops = waveform.shape[1] // mel.hop_samples, -(-mel.window_samples // mel.hop_samples)
    before, _ = compute_margins(mel)
    after = (frames + hops - 1) * mel.hop_samples - before - waveform.shape[1]
    padded = jnp.pad(waveform, ((0, 0), (before, after))).reshape(waveform.shape[0], -1, mel.hop_samples)
    return jnp.concatenate([padded[:, hop : hop + frames] for hop in range(hops)], -1)[..., : mel.window_samples]


def compute_log_mel(waveform: jax.Array, mel: MelConfig) -> jax.Array:
    """Computes `mel_spectrogram.compute_log_mel` for several clips, as a pure function that JAX can trace.

    Args:
      waveform: float32 [shape=(B, frames * hop_samples)].
      mel: settings of the spectrogram.

    Returns:
      float32 [shape=(B, frames, mel_bins)].
    """

    def matmul(a, b):
        return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)

    windows = _cut_windows(waveform, mel)
    half = mel.window_samples // 2
    left = windows[..., 1 : half + 1]  # [B, T, N / 2]
    right = jnp.flip(windows[..., mel.window_samples - half :], -1)
    cosines, sines = build_fourier_bases(mel)
    power = jnp.square(matmul(right + left, cosines)) + jnp.square(matmul(right - left, sines))
    return jnp.log(matmul(power, mel_spectrogram.mel_filters(mel).T) + np.float32(mel.floor))
