"""The page of all recordings: counts of each class, and links to the pages of the recordings."""

import html
import pathlib
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from mfl_jax.inference.display_data import format_clock, format_count
from mfl_jax.inference.finished_recordings import FinishedRecording
from mfl_jax.runtime import storage

FILE = "index.html"
STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --soft: #f1f3f5; --line: #d0d4d8; --problem: #D55E00; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; --paper: #16181a; --soft: #22262a; --line: #3c4248;
        --problem: #E69F00; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 70rem; color: var(--ink); background: var(--paper);
       font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; line-height: 1.2; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 1.5rem 0 .3rem; }
p { margin: .3rem 0; overflow-wrap: anywhere; }
a { color: inherit; }
:focus-visible { outline: 3px solid #D00000; outline-offset: 1px; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
thead th { background: var(--soft); vertical-align: bottom; } tbody th { font-weight: inherit; }
.recordings tbody th { overflow-wrap: anywhere; } .recordings .scene { white-space: nowrap; }
.wide { overflow-x: auto; }
.number { text-align: right; font-variant-numeric: tabular-nums; } td.number { white-space: nowrap; }
.problem { border-left: .3rem solid var(--problem); background: var(--soft); padding: .5rem .8rem; }
@media (max-width: 40rem) {
  th, td { padding: .3rem .2rem; } thead { font-size: .75rem; }
  .recordings thead { display: none; }
  .recordings tr { display: block; padding: .3rem 0; border-bottom: 1px solid var(--line); }
  .recordings th { display: block; border: 0; padding: 0; }
  .recordings td { display: inline; border: 0; padding: 0 .6rem 0 0; }
}
"""


def write_index(
    recordings: Callable[[], Iterable[FinishedRecording]],
    refused: Sequence[Mapping[str, Any]],
    remaining: int,
    link: Callable[[str], pathlib.PurePosixPath],
    file: pathlib.Path,
) -> None:
    """Writes the page, atomically.

    Args:
      recordings: returns the finished recordings; called twice.
      refused: entries of `summary.json` with the key `refused`.
      remaining: number of recordings that an interrupted call did not reach.
      link: name of a recording -> path of its page, relative to the folder of `file`.
      file: to write.
    """
    problems = [f"Interrupted: {format_count(remaining, 'recording')} not predicted yet."] if remaining else []
    problems += [f"{entry['recording']} was refused: {entry['refused']}" for entry in refused]
    with storage.atomic_path(file) as part, part.open("w", encoding="utf-8", errors="replace") as out:
        out.write(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; '
            "style-src 'unsafe-inline'\">\n"
            f'<link rel="icon" href="data:,">\n<title>Predictions</title>\n<style>{STYLE}</style></head>\n<body><main>\n'
            "<h1>Predictions</h1>\n"
        )
        out.writelines(f'<p class="problem">{html.escape(text)}</p>\n' for text in problems)
        out.write(_summarise(recordings()))
        out.write(
            '<h2>Recordings</h2>\n<table class="recordings"><thead><tr><th scope="col">Recording'
            '<th scope="col" class="number">Length<th scope="col">Scene<th scope="col">Events</tr></thead><tbody>\n'
        )
        out.writelines(_to_row(recording.entry, link(recording.recording)) for recording in recordings())
        out.write("</tbody></table>\n</main></body></html>\n")


def _summarise(recordings: Iterable[FinishedRecording]) -> str:
    """Returns the totals, the counts of scenes, and a table of the event classes."""
    total, duration_s = 0, 0.0
    scenes: dict[str, int] = {}
    events: dict[str, list[float]] = {}  # label -> recordings, events, seconds, sum of confidences
    for recording in recordings:
        total += 1
        duration_s += recording.entry["duration_s"]
        if scene := recording.entry["scene"]:
            scenes[scene] = scenes.get(scene, 0) + 1
        for label in recording.entry["events"]:
            events.setdefault(label, [0, 0, 0.0, 0.0])[0] += 1
        for event in recording.detected:
            sums = events[event.label]
            sums[1:] = sums[1] + 1, sums[2] + event.offset_s - event.onset_s, sums[3] + event.confidence
    text = f"<p>{format_count(total, 'recording')}, {format_clock(duration_s)}.</p>\n"
    if scenes:
        counts = sorted(scenes.items(), key=lambda item: (-item[1], item[0]))
        text += "<p>Scenes: " + ", ".join(f"{html.escape(scene)} {count}" for scene, count in counts) + ".</p>\n"
    if not events:
        return text
    rows = (
        f'<tr><th scope="row">{html.escape(label)}<td class="number">{count:.0f}<td class="number">{found_in:.0f}'
        f'<td class="number">{format_clock(seconds)}<td class="number">{confidence / count:.2f}</tr>\n'
        for label, (found_in, count, seconds, confidence) in sorted(events.items(), key=lambda item: (-item[1][1], item[0]))
    )
    return (
        text + '<h2>Events</h2>\n<div class="wide"><table><thead><tr><th scope="col">Class<th scope="col" class="number">Events'
        '<th scope="col" class="number">Recordings<th scope="col" class="number">Duration'
        '<th scope="col" class="number">Mean confidence</tr></thead><tbody>\n' + "".join(rows) + "</tbody></table></div>\n"
    )


def _to_row(entry: Mapping[str, Any], page: pathlib.PurePosixPath) -> str:
    name, scene = html.escape(entry["recording"]), html.escape(entry["scene"] or "")
    probability = f" ({entry['scene_probability']:.2f})" if scene else ""
    events = html.escape(", ".join(f"{label} {count}" for label, count in entry["events"].items()))
    return (
        f'<tr><th scope="row"><a href="{urllib.parse.quote(page.as_posix())}">{name}</a>'
        f'<td class="number">{format_clock(entry["duration_s"])}<td class="scene">{scene}{probability}<td>{events}</tr>\n'
    )
