"""The builders of data sets: in a clone the folder `datasets/` beside the package, once installed its files are here.

No module is called `datasets`: Hugging Face's library has that name.
"""

import pathlib

# setup.cfg maps that folder to this package, so this file exists only in a clone.
__path__ = [str(pathlib.Path(__file__).absolute().parents[2] / "datasets")]
