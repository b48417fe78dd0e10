"""Derives figures from those of several pieces, and formats the table of all."""

from collections.abc import Mapping, Sequence

import rich.table

RUNS, EPOCHS = 40, 300
"""Of the paper's Table IV: four systems with ten seeds each."""
HIDDEN = ("piece", "seconds", "lowest_ms", "highest_ms")
"""Figures without a place in the table's last column."""
LOSS_TOLERANCE = 0.02
"""Relative difference of the first losses of both sides, in bfloat16, up to which they compute the same."""


def derive(entries: Sequence[Mapping]) -> list[dict]:
    """Compares with PyTorch and projects the time of Table IV, as far as the pieces for it succeeded."""
    derived = []
    for ours, theirs in (("training_step_bfloat16", "torch_training_step_"), ("forward_bfloat16", "torch_forward_")):
        ours_ms = next((entry["ms"] for entry in entries if entry["piece"] == ours and "ms" in entry), None)
        times = {entry["piece"]: entry["ms"] for entry in entries if entry["piece"].startswith(theirs) and "ms" in entry}
        if ours_ms and times:
            best = min(times, key=lambda name: times[name])
            derived.append(
                {"piece": f"{ours}_against_torch", "ours_ms": ours_ms, "best": best, "best_ms": times[best],
                 "ratio": times[best] / ours_ms, "of_variants": len(times)}
            )  # fmt: skip
    losses = {entry["piece"]: entry["first_loss"] for entry in entries if "first_loss" in entry}
    if len(losses) > 1:
        difference = max(losses.values()) / min(losses.values()) - 1
        derived.append({"piece": "first_losses", "difference": difference, "same": difference <= LOSS_TOLERANCE})
    for entry in entries:
        if entry["piece"] == "epoch_of_group" and "epoch_s" in entry:
            groups = -(-RUNS // entry["members"])
            hours = groups * (EPOCHS * entry["epoch_s"] + entry["seconds_besides_epochs"]) / 3600
            derived.append(
                {"piece": "table_iv_projected", "hours": hours, "runs": RUNS, "epochs": EPOCHS, "groups": groups,
                 "clips": entry["clips"]}
            )  # fmt: skip
    return derived


def make_table(entries: Sequence[Mapping]) -> rich.table.Table:
    """Makes a table with a row per piece."""
    table = rich.table.Table("piece", "s", "figures")
    for entry in entries:
        shown = {name: value for name, value in entry.items() if name not in HIDDEN and not isinstance(value, list | None)}
        figures = ", ".join(f"{name} {_format(value)}" for name, value in shown.items())
        table.add_row(entry["piece"], _format(entry.get("seconds", "")), figures)
    return table


def _format(value: object) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{name} {_format(part)}" for name, part in value.items()) + ")"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
