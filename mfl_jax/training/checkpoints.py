"""Saves and restores runs with Orbax; no other module imports it.

A checkpoint is a folder `<step>/` with two items. `state` holds the arrays `params`, `batch_stats`, `opt_state`,
`feature_stats`, `sums`, `step` and, with `config.ema_decay`, `average` as nested dictionaries. `about` is a JSON file with the
config, the scene and event labels, the spectrogram settings, the fingerprint of the data, and a SHA-256 digest of every array.
Orbax alone can read the arrays:

    orbax.checkpoint.StandardCheckpointer().restore("/absolute/path/to/run/checkpoints/<step>/state")

`checkpoints.sums/<step>.json`, next to `checkpoints/`, holds a SHA-256 digest of every file of a checkpoint. It is written once
the checkpoint is complete.
"""

import contextlib
import hashlib
import json
import pathlib
import shutil
import time
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

FIELDS = ("params", "batch_stats", "opt_state", "feature_stats", "sums", "step", "average")
"""Attributes of `TrainState` that are saved; `average` only where there is one."""
ROOM_BYTES = 4_000_000
"""Room for the other files of a checkpoint and of an epoch, on top of the arrays."""


def _to_plain(state: TrainState) -> dict[str, Any]:
    fields = {name: getattr(state, name) for name in FIELDS}
    return {name: flax.serialization.to_state_dict(value) for name, value in fields.items() if value is not None}


def _fill_sums(stored: dict[str, Any], current: dict[str, Any]) -> dict[str, Any]:
    """Adds the sums that an earlier version did not compute to the sums of its checkpoint.

    Within an epoch they are unknown, so NaN until its end; at its start they are zero.

    Args:
      stored: sums of a run, or of several runs stacked.
      current: sums of this version.
    """
    missing = np.where(np.asarray(stored["batches"]) == 0, np.float32(0), np.float32(np.nan))
    filled = {name: missing for name in flax.traverse_util.flatten_dict(current)} | flax.traverse_util.flatten_dict(stored)
    return flax.traverse_util.unflatten_dict(filled)


def state_bytes(state: TrainState) -> int:
    """Returns the size of the arrays of a checkpoint."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(_to_plain(state)))


def _digest_arrays(plain: dict[str, Any]) -> dict[str, str]:
    leaves = flax.traverse_util.flatten_dict(plain, sep="/")
    return {
        name: hashlib.sha256(np.ascontiguousarray(leaf).tobytes()).hexdigest()
        for name, leaf in leaves.items()
        if isinstance(leaf, np.ndarray)
    }


def _list_files(folder) -> Iterator[pathlib.Path]:
    """Yields all files below a folder; paths in object stores have no `rglob`."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            yield from _list_files(path)
        else:
            yield path


def _digest_files(folder) -> dict[str, str]:
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in _list_files(folder)}


def _first_line(error) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


class Checkpoints:
    """The checkpoints of a run; damaged or incomplete ones are skipped with a warning."""

    def __init__(
        self, directory: str | pathlib.Path, *, keep: int, keep_every: int = 0, together: bool = False, owner: bool = False
    ):
        """Opens or creates the folder.

        Args:
          directory: local or in an object store; shared by all hosts of a run.
          keep: number of newest checkpoints to keep.
          keep_every: also keep the checkpoint of every so many steps; 0 for none.
          together: whether all hosts of the run save and restore together, not this host alone.
          owner: whether nobody else writes here, so that half-written checkpoints can be deleted.
        """
        self.directory = storage.resolve_folder(directory) if storage.is_remote(directory) else pathlib.Path(directory).absolute()
        self._sums = self.directory.parent / f"{self.directory.name}.sums"
        policy = ocp.checkpoint_managers.LatestN(n=keep)
        if keep_every:
            policies = [policy, ocp.checkpoint_managers.EveryNSteps(interval_steps=keep_every)]
            policy = ocp.checkpoint_managers.AnyPreservationPolicy(policies)
        processes = ocp.options.MultiprocessingOptions()
        host = jax.process_index()
        if not together and jax.process_count() > 1:
            processes = ocp.options.MultiprocessingOptions(
                primary_host=host, active_processes={host}, barrier_sync_key_prefix=f"host{host}"
            )
            self.directory.mkdir(parents=True, exist_ok=True)  # Orbax does not create it in this case
        self._writes_sums = not together or host == 0
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
        self._save_started = self._save_s = 0.0

    def __enter__(self):
        return self

    def __exit__(self, exception_type, *_):
        if exception_type is None:
            self.wait()
            self._manager.close()
            return
        with contextlib.suppress(Exception):  # the first error is the one to report
            self._manager.close()

    def check_room(self, state: TrainState) -> None:
        """Raises an InputError if the disk has no room for one more checkpoint, before anything is written."""
        if storage.is_remote(self.directory):
            return
        free = shutil.disk_usage(self.directory).free
        needed = ROOM_BYTES + int(1.5 * state_bytes(state))
        if free < needed:
            raise InputError(
                f"{self.directory}: {free / 1e6:.1f} MB are free on the disk, but a checkpoint needs up to "
                f"{needed / 1e6:.1f} MB; {self.last_good()}; free some space, then run the same command to resume"
            )

    def save(self, state: TrainState, about: dict) -> None:
        """Saves in the background; the state may be changed or donated at once.

        Args:
          state: of the run, or of several runs stacked.
          about: describes the arrays; JSON-serialisable.

        Raises:
          InputError: this checkpoint or the one before it can't be written, or a parameter is not finite. Earlier checkpoints
            stay as they are.
        """
        self._save_started = time.monotonic()
        plain = jax.tree.map(np.array, jax.device_get(_to_plain(state)))
        step = int(np.max(plain["step"]))  # a stacked state has one step per run, all of them equal
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(plain["params"])):
            raise InputError(f"after step {step} a parameter is not finite; {self.last_good()}")
        self.wait()
        with self._convert_errors(step):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(plain), about=ocp.args.JsonSave({**about, "sha256": _digest_arrays(plain)})
                ),
            )
        self._unsummed = step
        self._save_s = time.monotonic() - self._save_started

    def share_of_time(self) -> float:
        """Returns the time that the last call of `save` took, over the time since it began; 0 before the first."""
        return self._save_s / (time.monotonic() - self._save_started) if self._save_s else 0.0

    def wait(self) -> None:
        """Waits until the checkpoint being saved is complete. Raises like `save`."""
        with self._convert_errors(self._unsummed):
            self._manager.wait_until_finished()
            if self._unsummed is not None and self._writes_sums:
                self._write_sums(self._unsummed)
        self._unsummed = None

    @contextlib.contextmanager
    def _convert_errors(self, step: int | None) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many types for a full or read-only disk
            self._unsummed = None
            if hosts.is_lost_host_error(error):
                raise
            raise InputError(f"{self.directory}/{step}: not written ({_first_line(error)}); {self.last_good()}") from None

    def last_good(self) -> str:
        """Says which checkpoint is left to resume from, for error messages."""
        steps = self.steps()
        return f"the last good checkpoint is from step {steps[0]}" if steps else "there is no checkpoint yet"

    def _write_sums(self, step: int) -> None:
        folder = self._sums
        folder.mkdir(exist_ok=True)
        storage.atomic_write(folder / f"{step}.json", json.dumps(_digest_files(self.directory / str(step)), indent=1) + "\n")
        kept = {str(step) for step in self._manager.all_steps()}
        for file in folder.glob("*.json"):
            if file.stem not in kept:
                file.unlink(missing_ok=True)

    def bytes(self) -> int:
        """Returns the size of all files of the checkpoints."""
        return sum(
            file.stat().st_size if isinstance(file, pathlib.Path) else file.stat().length for file in _list_files(self.directory)
        )

    def steps(self) -> list[int]:
        """Returns the steps of the checkpoints, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def _restore_intact(self, steps: Iterable[int]) -> Iterator[tuple[dict, dict]]:
        """Yields the arrays and the description of each intact checkpoint; warns about the others."""
        for step in steps:
            try:
                self._check_files(step)  # first: Orbax logs errors about damaged files
                about = self._manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]
                # Saved from the host, so restored onto the host whatever devices there are.
                plain = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore()))["state"]
                plain = jax.tree.map(np.asarray, plain)
                digests, expected = _digest_arrays(plain), about.pop("sha256")
                if wrong := sorted(name for name in expected if digests.get(name) != expected[name]):
                    raise ValueError(f"array {wrong[0]} differs from the one saved")
            except Exception as error:  # Orbax and TensorStore raise many types for a damaged file
                warn(f"{self.directory}/{step}: damaged checkpoint ({_first_line(error)}); skipped")
                continue
            yield plain, about

    def _check_files(self, step: int) -> None:
        """Compares each file with its digest. Digests are missing if the process was killed before it wrote them."""
        sums = self._sums / f"{step}.json"
        if not sums.exists():
            return
        expected, digests = json.loads(sums.read_text()), _digest_files(self.directory / str(step))
        if wrong := sorted(name for name in {*expected, *digests} if digests.get(name) != expected.get(name)):
            raise ValueError(f"file {wrong[0]} differs from the one written")

    def newest(self, of: Iterable[int] | None = None) -> tuple[dict, dict] | None:
        """Restores the newest intact checkpoint, and warns about damaged ones.

        Args:
          of: steps to choose from, newest first; all by default.

        Returns:
          The state as nested dictionaries of NumPy arrays, and `about`; None if there are no checkpoints.

        Raises:
          InputError: there are checkpoints, but all are damaged.
        """
        steps = self.steps() if of is None else list(of)
        for plain, about in self._restore_intact(steps):
            return plain, about
        if of is not None:
            raise InputError(f"{self.directory}/{steps[0]}: damaged checkpoint; try another step")
        if steps:
            raise InputError(f"{self.directory}: all checkpoints are damaged; delete the folder to start over")
        return None

    def drop_after(self, step: int) -> None:
        """Deletes the checkpoints after a step; a run that resumes from there writes them again."""
        for later in self.steps():
            if later > step:
                self._manager.delete(later)

    def resume(self, template: TrainState) -> tuple[TrainState, dict] | None:
        """Restores the newest intact checkpoint like `newest`, with the structure of `template`.

        The owner also writes the digests of its files if a killed process did not.
        """
        if (newest := self.newest()) is None:
            return None
        plain, about = newest
        step = int(np.max(plain["step"]))
        if self._owner and self._writes_sums and not (self._sums / f"{step}.json").exists():
            with self._convert_errors(step):
                self._write_sums(step)
        plain["sums"] = _fill_sums(plain["sums"], flax.serialization.to_state_dict(template.sums))
        state = TrainState(
            **{name: flax.serialization.from_state_dict(getattr(template, name), plain[name]) for name in _to_plain(template)}
        )
        return jax.tree.map(jax.numpy.asarray, state), about
