"""A clip with padding against the same clip without it: logits, gradients and statistics, in every form of the network."""

import functools

import jax
import numpy as np
import pytest

from mfl_jax.frame_mask import frame_mask
from support.networks import ODD, all_valid, assert_close, functional, noise, small_network

pytestmark = pytest.mark.lightly_optimised

SIZE = ODD | {"frames": 100}
BINS = SIZE["mel_bins"]


@functools.cache
def network(form):
    """A network as a compiled function, one for each form, and its arrays."""
    return functional(small_network(SIZE))


def pad(x, valid_frames, frames):
    """Clips of valid frames followed by large noise, and their mask. Clips without valid frames are not in `x`."""
    padded = 1e3 * noise(len(valid_frames), frames, BINS, seed=9) + 500
    mask = frame_mask(np.array(valid_frames), frames)
    for clip, valid in zip(np.flatnonzero(valid_frames), x, strict=True):
        padded[clip, : valid_frames[clip]] = valid[: valid_frames[clip]]
    return padded, mask


def results_and_gradients(apply, params, batch_stats, x, mask, clips, frames):
    """Logits of some clips and their first frames, new statistics, and gradients of a fixed weighted sum of both."""

    def results(params, x):
        (scene, event), new_stats = apply(params, batch_stats, x, mask=mask, train=True)
        return scene[clips], event[clips, :frames], new_stats

    values, gradients_of = jax.vjp(results, params, x)
    gradients, gradient_of_x = gradients_of(jax.tree.map(lambda a: noise(*a.shape, seed=5), values))
    return values, gradients, np.asarray(gradient_of_x)


@pytest.mark.ci_only
@pytest.mark.parametrize("form", ["cpu", "gpu"], indirect=True)
def test_training_on_padded_clips_equals_training_without_the_padding(form):
    """Two clips with padded frames, among clips that only fill up the batch."""
    frames, clips = 50, np.array([1, 2])
    x = noise(2, frames, BINS)
    padded, mask = pad(x, [0, frames, frames, 0], 75)
    values, gradients, gradient_of_x = results_and_gradients(*network(form), x, all_valid(x), slice(None), frames)
    results = results_and_gradients(*network(form), padded, mask, clips, frames)
    assert_close(results[:2], (values, gradients), 2e-4)
    assert_close(results[2][clips, :frames], gradient_of_x, 2e-4)
    assert not results[2][~mask].any()


def test_clips_of_different_lengths_do_not_depend_on_their_padding(form):
    apply, params, batch_stats = network(form)
    valid_frames = [100, 50, 25, 60, 1]
    x, mask = pad(noise(5, 100, BINS), valid_frames, 100)
    (scene, event), _ = apply(params, batch_stats, x, mask=mask)
    padded, mask = pad(x, valid_frames, 150)
    (other_scene, other_event), _ = apply(params, batch_stats, padded, mask=mask)
    assert_close(other_scene, scene, 1e-4, "scenes")
    for clip, frames in enumerate(valid_frames):
        assert_close(other_event[clip, :frames], event[clip, :frames], 1e-4, f"{frames} frames")


def test_an_incomplete_window_counts_with_its_valid_frames_and_an_empty_clip_stays_finite():
    apply, params, batch_stats = network("cpu")
    x, mask = pad(noise(2, 100, BINS), [60, 60, 0], 100)
    x[1] = x[0]
    x[1, 50:60] *= 3
    (scene, event), _ = apply(params, batch_stats, x, mask=mask)
    assert np.abs(scene[0] - scene[1]).max() > 1e-3
    assert np.isfinite(scene).all() and np.isfinite(event).all()


def test_padding_would_show_without_the_mask():
    # The tests above can fail: zeros after the end of a clip change its logits.
    apply, params, batch_stats = network("cpu")
    x = noise(2, 50, BINS)
    padded = np.pad(x, ((0, 0), (0, 50), (0, 0)))
    (_, alone), _ = apply(params, batch_stats, padded, mask=frame_mask(np.array([50, 50]), 100))
    (_, unmasked), _ = apply(params, batch_stats, padded)
    assert np.abs(unmasked[:, :50] - alone[:, :50]).max() > 1e-3


def test_without_a_mask_all_frames_count():
    apply, params, batch_stats = network("cpu")
    x = noise(2, 50, BINS)
    results = [apply(params, batch_stats, x, mask=mask, train=True) for mask in (None, all_valid(x))]
    assert_close(*results, 1e-5)
