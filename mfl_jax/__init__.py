"""Acoustic scenes and sound events by one model: `mfl_jax.load` opens a trained one."""


def load(run_directory, *, step: int | None = None):
    """Loads the model of a run; see `mfl_jax.inference.trained_model.load`."""
    from mfl_jax.inference import trained_model  # here, so that importing the package alone takes no time

    return trained_model.load(run_directory, step=step)
