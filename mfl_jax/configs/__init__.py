"""The configs: in a clone the folder `configs/` beside the package, once installed its files are here."""

import pathlib

# setup.cfg maps that folder to this package, so this file exists only in a clone.
__path__ = [str(pathlib.Path(__file__).absolute().parents[2] / "configs")]
