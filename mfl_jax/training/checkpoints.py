"""Saves and restores runs with Orbax: the only module that imports it.

A checkpoint is a folder `<step>/` with two items. `state` holds the arrays: `params`, `batch_stats`, `opt_state`,
`feature_stats`, `sums` and `step`, nested dictionaries of plain names. `about` is a JSON file: the config, the vocabularies, the
settings of the spectrograms, the fingerprint of the data, and a SHA-256 sum of every array. Reading one takes Orbax alone:

    orbax.checkpoint.StandardCheckpointer().restore("/absolute/path/to/run/checkpoints/<step>/state")

Beside `checkpoints/` lies `checkpoints.sums/<step>.json`, a SHA-256 sum of every file of one, written once it is whole.
"""

import contextlib
import hashlib
import json
import pathlib
import shutil
from collections.abc import Iterable, Iterator
from typing import Any

import flax.serialization
import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp

from mfl_jax.errors import InputError, warn
from mfl_jax.runtime import hosts, storage
from mfl_jax.training.steps import TrainState

FIELDS = ("params", "batch_stats", "opt_state", "feature_stats", "sums", "step")
"""Items of a saved state, by their names in `TrainState`."""


ROOM_BYTES = 4_000_000
"""What a checkpoint may take beside its arrays, with the other files of an epoch."""


def _plain(state: TrainState) -> dict[str, Any]:
    return {name: flax.serialization.to_state_dict(getattr(state, name)) for name in FIELDS}


def state_bytes(state: TrainState) -> int:
    """What the arrays of a checkpoint take."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(_plain(state)))


def _digests(plain: dict[str, Any]) -> dict[str, str]:
    leaves = flax.traverse_util.flatten_dict(plain, sep="/")
    return {
        name: hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest()
        for name, leaf in leaves.items()
        if isinstance(leaf, np.ndarray)
    }


def _files(folder) -> Iterator[pathlib.Path]:
    """All files below a folder; stores have no `rglob`."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _files(path)
        else:
            yield path


def _file_sums(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in _files(folder)}


def _first_line(error) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


class Checkpoints:
    """The checkpoints of a run, newest last; a checkpoint that is not whole is passed over."""

    def __init__(
        self, directory: str | pathlib.Path, *, keep: int, keep_every: int = 0, together: bool = False, owner: bool = False
    ):
        """Opens or makes the folder.

        Args:
          directory: here or in a store; of a run over several hosts, one that they share.
          keep: how many checkpoints are kept, the oldest go.
          keep_every: those of every so many steps are kept for good beside these; 0 for none.
          together: whether all hosts of the run save and restore, rather than this one by itself.
          owner: whether nobody else writes here, so that what was left half-written can go.
        """
        self.directory = storage.resolve_folder(directory) if storage.is_remote(directory) else pathlib.Path(directory).absolute()
        self._sums = self.directory.parent / f"{self.directory.name}.sums"
        policy = ocp.checkpoint_managers.LatestN(n=keep)
        if keep_every:
            policies = [policy, ocp.checkpoint_managers.EveryNSteps(interval_steps=keep_every)]
            policy = ocp.checkpoint_managers.AnyPreservationPolicy(policies)
        processes = ocp.options.MultiprocessingOptions()
        own = jax.process_index()
        if not together and jax.process_count() > 1:
            processes = ocp.options.MultiprocessingOptions(
                primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"host{own}"
            )
            self.directory.mkdir(parents=True, exist_ok=True)  # which Orbax leaves to us then
        self._writes_sums = not together or own == 0
        self._owner = owner
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policy,
                cleanup_tmp_directories=owner,
                multiprocessing_options=processes,
                create=processes.active_processes is None,
            ),
        )
        self._unsummed: int | None = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.wait()
            self._manager.close()
            return
        with contextlib.suppress(Exception):  # the error at hand is the one to hear of
            self._manager.close()

    def check_room(self, state: TrainState) -> None:
        """Raises an InputError where the disk has no room for one checkpoint more: before any of it is written, that is plain."""
        if storage.is_remote(self.directory):
            return
        free = shutil.disk_usage(self.directory).free
        needed = ROOM_BYTES + int(1.5 * state_bytes(state))
        if free < needed:
            raise InputError(
                f"{self.directory}: {free / 1e6:.1f} MB are free on the disk, and a checkpoint needs up to "
                f"{needed / 1e6:.1f} MB; {self.last_good()}; make room, and the same command goes on"
            )

    def save(self, state: TrainState, about: dict) -> None:
        """Saves in the background; the state may be changed or donated at once.

        Args:
          state: of the run. about: JSON-serialisable, what the arrays mean.

        Raises:
          InputError: this one, or the one before it, can't be written, or its parameters are not numbers any more. The
            checkpoints before it stay as they are.
        """
        plain = jax.tree.map(np.array, jax.device_get(_plain(state)))
        step = int(np.max(plain["step"]))  # a state of several runs at once has a step each, all of them equal
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(plain["params"])):
            raise InputError(f"after step {step} the parameters are no longer numbers; {self.last_good()}")
        self.wait()
        with self._clear(step):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(plain), about=ocp.args.JsonSave({**about, "sha256": _digests(plain)})
                ),
            )
        self._unsummed = step

    def wait(self) -> None:
        """Returns when all that was to be saved is saved. Raises as `save`."""
        with self._clear(self._unsummed):
            self._manager.wait_until_finished()
            if self._unsummed is not None and self._writes_sums:
                self._write_sums(self._unsummed)
        self._unsummed = None

    @contextlib.contextmanager
    def _clear(self, step):
        try:
            yield
        except Exception as error:  # whatever Orbax and TensorStore make of a full or a read-only disk
            self._unsummed = None
            if hosts.is_lost_host_error(error):
                raise
            raise InputError(f"{self.directory}/{step}: not written ({_first_line(error)}); {self.last_good()}") from None

    def last_good(self) -> str:
        """What is left to go on from, in words."""
        steps = self.steps()
        return f"the last good checkpoint is that of step {steps[0]}" if steps else "there is no checkpoint yet"

    def _write_sums(self, step) -> None:
        folder = self._sums
        folder.mkdir(exist_ok=True)
        storage.atomic_write(folder / f"{step}.json", json.dumps(_file_sums(self.directory / str(step)), indent=1) + "\n")
        kept = {str(one) for one in self._manager.all_steps()}
        for file in folder.glob("*.json"):
            if file.stem not in kept:
                file.unlink(missing_ok=True)

    def bytes(self) -> int:
        """What all that lies here takes on the disk."""
        return sum(
            file.stat().st_size if isinstance(file, pathlib.Path) else file.stat().length for file in _files(self.directory)
        )

    def steps(self) -> list[int]:
        """The steps of the checkpoints, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def _whole(self, steps: Iterable[int]) -> Iterator[tuple[int, dict, dict]]:
        for step in steps:
            try:
                self._check_files(step)  # first: Orbax makes noise over what is broken
                about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
                # Saved from the host, and so restored onto it, whatever devices there are.
                plain = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]
                plain = jax.tree.map(np.asarray, plain)
                found, expected = _digests(plain), about.pop("sha256")
                if wrong := sorted(name for name in expected if found.get(name) != expected[name]):
                    raise ValueError(f"{wrong[0]} is not what was saved")
            except Exception as error:  # whatever Orbax and TensorStore make of a broken file
                warn(f"{self.directory}/{step}: not a whole checkpoint ({_first_line(error)}); passed over")
                continue
            yield step, plain, about

    def _check_files(self, step) -> None:
        """Holds each file against its sum; where a process was killed before it wrote them, the sums of the arrays decide."""
        sums = self._sums / f"{step}.json"
        if not sums.exists():
            return
        expected, found = json.loads(sums.read_text()), _file_sums(self.directory / str(step))
        if wrong := sorted(name for name in {*expected, *found} if found.get(name) != expected.get(name)):
            raise ValueError(f"its file {wrong[0]} is not what was written")

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
        """As `newest`, in the form of `template`. The owner writes the sums of its files where a killed process did not."""
        if (found := self.newest()) is None:
            return None
        plain, about = found
        step = int(np.max(plain["step"]))
        if self._owner and self._writes_sums and not (self._sums / f"{step}.json").exists():
            with self._clear(step):
                self._write_sums(step)
        state = TrainState(**{name: flax.serialization.from_state_dict(getattr(template, name), plain[name]) for name in FIELDS})
        return jax.tree.map(jax.numpy.asarray, state), about
