"""Saves and restores runs with Orbax: the only module that imports it.

A checkpoint is a folder `<step>/` with two items. `state` holds the arrays: `params`, `batch_stats`, `opt_state`,
`feature_stats`, `sums` and `step`, nested dictionaries of plain names. `about` is a JSON file: the config, the vocabularies, the
settings of the spectrograms, the fingerprint of the data, and a SHA-256 sum of every array. Reading one takes Orbax alone:

    orbax.checkpoint.StandardCheckpointer().restore("/absolute/path/to/run/checkpoints/<step>/state")
"""

import hashlib
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any

import flax.serialization
import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp

from mfl_jax.errors import InputError, warn
from mfl_jax.step import TrainState

FIELDS = ("params", "batch_stats", "opt_state", "feature_stats", "sums", "step")
"""Items of a saved state, by their names in `TrainState`."""


def _plain(state: TrainState) -> dict[str, Any]:
    return {name: flax.serialization.to_state_dict(getattr(state, name)) for name in FIELDS}


def _digests(plain: dict[str, Any]) -> dict[str, str]:
    leaves = flax.traverse_util.flatten_dict(plain, sep="/")
    return {
        name: hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest()
        for name, leaf in leaves.items()
        if isinstance(leaf, np.ndarray)
    }


class Checkpoints:
    """The checkpoints of a run, newest last; a checkpoint that is not whole is passed over."""

    def __init__(self, directory: str | pathlib.Path, *, keep: int):
        """Opens or makes the folder; of more than `keep` checkpoints the oldest go."""
        self.directory = pathlib.Path(directory).absolute()
        self._manager = ocp.CheckpointManager(self.directory, options=ocp.CheckpointManagerOptions(max_to_keep=keep))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._manager.close()

    def save(self, state: TrainState, about: dict) -> None:
        """Saves in the background; the state may be changed or donated at once.

        Args:
          state: of the run. about: JSON-serialisable, what the arrays mean.
        """
        plain = jax.tree.map(np.array, jax.device_get(_plain(state)))
        self._manager.save(
            int(np.max(plain["step"])),  # a state of several runs at once has a step each, all of them equal
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(plain), about=ocp.args.JsonSave({**about, "sha256": _digests(plain)})
            ),
        )

    def wait(self) -> None:
        """Returns when all that was to be saved is saved."""
        self._manager.wait_until_finished()

    def steps(self) -> list[int]:
        """The steps of the checkpoints, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def _whole(self, steps: Iterable[int]) -> Iterator[tuple[int, dict, dict]]:
        for step in steps:
            try:
                about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
                # Saved from the host, and so restored onto it, whatever devices there are.
                plain = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]
                plain = jax.tree.map(np.asarray, plain)
                found, expected = _digests(plain), about.pop("sha256")
                if wrong := sorted(name for name in expected if found.get(name) != expected[name]):
                    raise ValueError(f"{wrong[0]} is not what was saved")
            except Exception as error:  # whatever Orbax and TensorStore make of a broken file
                reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                warn(f"{self.directory}/{step}: not a whole checkpoint ({reason}); passed over")
                continue
            yield step, plain, about

    def newest(self, of: Iterable[int] | None = None) -> tuple[dict, dict] | None:
        """The newest whole checkpoint as (state of plain dictionaries on the host, about); None where there is none at all.

        Checkpoints that are not whole are named in a warning.

        Args:
          of: the steps to choose from, newest first; all by default.

        Raises:
          InputError: there are checkpoints, and none is whole.
        """
        steps = self.steps() if of is None else list(of)
        for _, plain, about in self._whole(steps):
            return plain, about
        if of is not None:
            raise InputError(f"{self.directory}/{steps[0]}: not a whole checkpoint; try that of another step")
        if steps:
            raise InputError(f"{self.directory}: none of its checkpoints is whole; delete the folder to start anew")
        return None

    def drop_after(self, step: int) -> None:
        """Deletes the checkpoints after a step: a run that goes on from there makes them again."""
        for later in self.steps():
            if later > step:
                self._manager.delete(later)

    def resume(self, template: TrainState) -> tuple[TrainState, dict] | None:
        """As `newest`, in the form of `template`."""
        if (found := self.newest()) is None:
            return None
        plain, about = found
        state = TrainState(**{name: flax.serialization.from_state_dict(getattr(template, name), plain[name]) for name in FIELDS})
        return jax.tree.map(jax.numpy.asarray, state), about
