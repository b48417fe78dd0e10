"""Colours and type of every picture."""

import contextlib
from collections.abc import Iterator

import matplotlib

# Okabe and Ito's colours, which most colour-blind readers can tell apart, without the two that vanish on white or on black.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8A7A00", "#7F7F7F", "#A04040", "#5050A0")


INK = {"light": "#222222", "dark": "#DDDDDD"}


@contextlib.contextmanager
def theme(name: str) -> Iterator[None]:
    """Draws for a `light` or a `dark` page; the background stays transparent in both."""
    ink = INK[name]
    lines = ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "axes.titlecolor")
    with matplotlib.rc_context(
        {
            **dict.fromkeys(lines, ink), "axes.facecolor": "none", "figure.facecolor": "none", "savefig.facecolor": "none",
            "axes.spines.top": False, "axes.spines.right": False, "grid.color": ink, "grid.alpha": 0.15, "axes.grid": True,
            "axes.axisbelow": True, "font.size": 10, "legend.frameon": False, "svg.fonttype": "none", "svg.hashsalt": "mfl_jax",
        }
    ):  # fmt: skip
        yield
