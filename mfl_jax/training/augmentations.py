"""Random changes of the training clips, by name; the paper has none.

`config.augmentations.NAME` is the strength of the augmentation NAME. One without a strength, or of strength 0, is not computed.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

Augmentation = Callable[[dict[str, Any], jax.Array, jax.Array], dict[str, Any]]
"""`augment(batch, strength, key)` returns the batch to train on: a device's share of it, in the shapes and types of `steps`.

The spectrograms are not normalised yet, and padded frames may hold any finite value afterwards. `strength` is a float32 scalar.
`key` is random and differs between steps, devices and runs.
"""

AUGMENTATIONS: dict[str, Augmentation] = {}
"""Name -> augmentation, in the order in which they are applied."""


def augment(batch: dict[str, Any], strengths: Mapping[str, jax.Array], key: jax.Array) -> dict[str, Any]:
    """Applies the augmentations that have a strength."""
    for number, (name, change) in enumerate(AUGMENTATIONS.items()):
        if name in strengths:
            batch = change(batch, strengths[name], jax.random.fold_in(key, number))
    return batch
