"""Damages the files of the newest checkpoint and checks that it is passed over for the one before."""

import collections
import contextlib
import io
import logging
import os
import pathlib
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping

from benchmarks.soak.killing import Soak, Undisturbed
from benchmarks.soak.outcomes import digest_newest_checkpoint, digest_tree
from benchmarks.soak.processes import read_last_line
from benchmarks.soak.workdirs import list_files, list_steps
from mfl_jax.errors import InputError
from mfl_jax.training.checkpoints import Checkpoints

Damage = Callable[[pathlib.Path, random.Random], None]


def flip_a_bit(file: pathlib.Path, rng: random.Random) -> None:
    """Flips one random bit of a file that is not empty."""
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def truncate(file: pathlib.Path, rng: random.Random) -> None:
    """Cuts a file that is not empty to a random shorter length, possibly 0."""
    os.truncate(file, rng.randrange(file.stat().st_size))


def is_passed_over(folder: pathlib.Path, newest: int, digests: Mapping[str, str]) -> bool:
    """Whether the newest checkpoint of a folder is reported as incomplete and the one before is read.

    Args:
      folder: folder of the checkpoints.
      newest: step of the newest checkpoint.
      digests: digests of the checkpoint before it.
    """
    with contextlib.redirect_stderr(io.StringIO()) as errors, contextlib.suppress(InputError):
        return digest_newest_checkpoint(folder) == digests and f"{folder}/{newest}: damaged checkpoint" in errors.getvalue()
    return False


def damage_checkpoints(soak: Soak, commands: int) -> dict:
    """Damages each file of the newest checkpoint of a run that was killed, in two ways; returns the counts.

    Args:
      soak: the soak test, after its kills of `training`.
      commands: number of damaged checkpoints from which the training command itself is resumed.
    """
    rng = random.Random(f"{soak.seed} spoil")
    home = max(soak.folder.glob("training/run*"), key=lambda run: int(run.name.removeprefix("run")))
    before, newest = list_steps(home / "checkpoints")
    with Checkpoints(home / "checkpoints", keep=2) as checkpoints:
        digests = digest_tree(checkpoints.newest(of=[before])[0])
    files = sorted(file.relative_to(home) for file in (home / "checkpoints" / str(newest)).rglob("*") if file.is_file())
    cases = [(file, damage) for file in files for damage in (flip_a_bit, truncate) if (home / file).stat().st_size]
    counts = collections.Counter(files=len(files))
    for name in ("absl", "asyncio"):  # they would report each failed read again
        logging.getLogger(name).disabled = True
    for file, damage in cases:
        counts[damage.__name__] += 1
        if _reads_previous_checkpoint(soak.folder, home, file, damage, rng, newest, digests):
            counts["fell_back"] += 1
        else:
            soak.record_loss(home, f"{damage.__name__} of {file}: the checkpoint was not passed over")
    soak.log(f"{len(cases)} damaged files, {counts['fell_back']} reported and passed over")
    for number, (file, damage) in enumerate(rng.sample(cases, min(commands, len(cases)))):
        copy = soak.folder / "training" / f"spoilt{number}"
        shutil.copytree(home, copy)
        counts["commands"] += 1
        counts["commands_with_the_same_end"] += _resumes_from_previous_checkpoint(soak, copy, file, damage, rng, before, newest)
    return dict(counts)


def _reads_previous_checkpoint(folder, home, file, damage: Damage, rng, newest, digests) -> bool:
    """Whether a copy of the checkpoints with one damaged file is read from the previous checkpoint."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        copy = pathlib.Path(name)
        for part in ("checkpoints", "checkpoints.sums"):
            shutil.copytree(home / part, copy / part)
        damage(copy / file, rng)
        return is_passed_over(copy / "checkpoints", newest, digests)


def _resumes_from_previous_checkpoint(soak: Soak, copy, file, damage: Damage, rng, before, newest) -> bool:
    """Whether the training command, run on a copy with one damaged file, ends like the undisturbed run."""
    kind = soak.kinds["training"]
    (copy / "results.json").unlink()
    damage(copy / file, rng)
    with soak.running(kind, copy) as (process, output):
        soak.wait(process)
        text = output.read_text()
    soak.log(f"{damage.__name__} of {file}: ended with status {process.returncode}")
    reported = f"checkpoints/{newest}: damaged checkpoint" in text and f"resumes after step {before} of" in text
    if process.returncode or not reported:
        soak.record_loss(copy, f"{damage.__name__} of {file}: status {process.returncode}, {read_last_line(text)}")
        return False
    undisturbed = soak.folder / "training" / "undisturbed"
    return soak.compare(kind, copy, Undisturbed(kind.read_outcome(undisturbed), list_files(undisturbed), 0, 0))
