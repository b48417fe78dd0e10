"""Calls the command that imports labels in this process."""

from absl import flags
from absl.testing import flagsaver

from mfl_jax import import_labels


def run_import(*arguments):
    """Runs `python -m mfl_jax.import_labels ARGUMENTS` in this process; returns its exit status."""
    before = set(flags.FLAGS)
    import_labels.define_flags()
    try:
        with flagsaver.flagsaver():
            return import_labels.run(flags.FLAGS(["import_labels", *map(str, arguments)])[1:])
    finally:
        for name in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, name)
