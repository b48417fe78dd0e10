"""Imports the packages of the extra `eval`, which score events."""

import warnings
from typing import Any

from mfl_jax.errors import InputError
from mfl_jax.runtime.installation import install_command


def import_eval_packages() -> tuple[Any, Any]:
    """Imports sed_eval and sed_scores_eval.

    Raises:
      InputError: one of them is missing.
    """
    try:
        with warnings.catch_warnings():
            # dcase_util, which both import, still imports pkg_resources; and some of their strings have invalid escapes.
            warnings.filterwarnings("ignore", message="pkg_resources is deprecated", category=UserWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            warnings.filterwarnings("ignore", category=SyntaxWarning)
            import sed_eval
            import sed_scores_eval
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is missing: {install_command('eval')} installs the packages that score events") from None
    return sed_eval, sed_scores_eval
