"""Colours and fonts of every figure."""

import contextlib
from collections.abc import Iterator

import matplotlib

# Okabe and Ito's colours, which most colour-blind readers can tell apart, without those that vanish on white or on black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A7A00", "#7F7F7F", "#A04040", "#5050A0")
INK = {"light": "#222222", "dark": "#DDDDDD"}


@contextlib.contextmanager
def theme() -> Iterator[None]:
    """Sets Matplotlib up for a light page with a transparent background. Replacing the ink suits an SVG to a dark page."""
    ink = INK["light"]
    with matplotlib.rc_context(
        {
            "text.color": ink, "axes.edgecolor": ink, "axes.labelcolor": ink, "axes.titlecolor": ink, "xtick.color": ink,
            "ytick.color": ink, "axes.facecolor": "none", "figure.facecolor": "none", "savefig.facecolor": "none",
            "axes.spines.top": False, "axes.spines.right": False, "grid.color": ink, "grid.alpha": 0.15, "axes.grid": True,
            "axes.axisbelow": True, "font.size": 10, "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "mfl_jax",
        }
    ):  # fmt: skip
        yield
