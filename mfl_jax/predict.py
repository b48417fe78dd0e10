"""Predicts the scenes and events of recordings.

python -m mfl_jax.predict --checkpoint=runs/proposed --out=out RECORDING_OR_FOLDER_OR_LIST_OR_- ...
"""

from __future__ import annotations

import json
import pathlib
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from absl import flags

from mfl_jax.errors import InputError, warn
from mfl_jax.runtime import command_help, commandline

if TYPE_CHECKING:  # imported where they are used, so that --help and wrong flags answer at once
    import rich.console

    from mfl_jax.data.annotation import Recording
    from mfl_jax.inference.audio_source import AudioSource
    from mfl_jax.inference.finished_recordings import FinishedRecordings, KeyMaker
    from mfl_jax.inference.output_files import OutputFiles
    from mfl_jax.inference.postprocessing import Rule
    from mfl_jax.inference.predict_to_files import FinishedRun
    from mfl_jax.inference.trained_model import TrainedModel
    from mfl_jax.scoring.reference_scores import ReferenceScores

MAX_ROWS = 25
"""Recordings in the printed table; summary.json has all of them."""
STOPPED = 130
"""Exit status after Ctrl-C or SIGTERM."""


def define_flags() -> None:
    """Defines the flags of the command."""
    command_help.group("Output", "out", "write", "plot", "page")
    flags.DEFINE_string("checkpoint", None, "Folder of a run, e.g. runs/proposed, or one of its checkpoints.")
    flags.DEFINE_string("out", "out", "Output folder; each format has its own folder in it.")
    flags.DEFINE_list(
        "write", ["events", "json"], "Formats: events (TSV, for sed_eval), json, audacity, jams, raven, scores (TSV), npz."
    )
    flags.DEFINE_float("overlap", 0.5, "Share of a window that overlaps the next one, from 0 (as --mode=evaluate) to below 1.")
    flags.DEFINE_string("postprocess", "auto", "auto: the rules of the run, if any; none: only a threshold; or a file of rules.")
    flags.DEFINE_string(
        "reference", None, "Labels of the recordings, to compare the predictions with: a list, or a folder of lists."
    )
    flags.DEFINE_boolean("plot", False, "Draw a picture of each recording.")
    flags.DEFINE_boolean("page", False, "Write a page with a player for each recording, and index.html.")
    flags.DEFINE_integer(
        "clips", 0, "Cut out this many events with the highest confidence and with the lowest one, for each class.", lower_bound=0
    )
    flags.DEFINE_boolean("resume", False, "Reuse the recordings that an earlier call finished with the same settings.")


def run(arguments: list[str]) -> int:
    """Runs the command; returns the exit status: 0, 1 if some recordings could not be read, or 130 after Ctrl-C or SIGTERM."""
    if not flags.FLAGS.checkpoint:
        raise InputError("--checkpoint=FOLDER is missing, e.g. --checkpoint=runs/proposed")
    if not arguments:
        raise InputError("name recordings, folders, lists of recordings, or - for the standard input")
    from mfl_jax.inference import find_recordings, trained_model, writers
    from mfl_jax.runtime import parallel

    if unknown := [name for name in flags.FLAGS.write if name not in writers.FORMATS]:
        raise InputError(f"--write: unknown format {unknown[0]!r}; the formats are {', '.join(writers.FORMATS)}")
    writers.check_packages(flags.FLAGS.write)
    with tempfile.TemporaryDirectory(prefix="mfl_jax_") as spool:
        sources = find_recordings.find_recordings(arguments, pathlib.Path(spool))
        parallel.keep_freed_memory()
        model = trained_model.load(flags.FLAGS.checkpoint)
        return _predict(model, sources)


def _predict(model: TrainedModel, sources: Sequence[AudioSource]) -> int:
    from mfl_jax.inference import finished_recordings, output_files, streaming
    from mfl_jax.inference.overview import write_overview
    from mfl_jax.inference.predict_to_files import predict_to_files
    from mfl_jax.runtime import storage

    out = storage.expand_path(flags.FLAGS.out)
    rules, rules_name = _choose_rules(model)
    streaming.window_stride(model.clip_frames, flags.FLAGS.overlap)  # checks the overlap before anything is written
    scores, references = _read_reference(model, sources, rules) if flags.FLAGS.reference else (None, {})
    files = output_files.OutputFiles(
        out,
        sources,
        model.mel,
        formats=flags.FLAGS.write,
        plot=flags.FLAGS.plot,
        page=flags.FLAGS.page,
        rules=rules,
    )
    finished = finished_recordings.FinishedRecordings(out / finished_recordings.FILE, keep=flags.FLAGS.resume)
    make_key = finished_recordings.KeyMaker(
        model, files, overlap=flags.FLAGS.overlap, rules=rules, is_scored=scores is not None
    )  # fmt: skip
    unfinished = _reuse_finished(sources, finished, make_key, files, references, scores) if flags.FLAGS.resume else sources
    reused = [recording.entry for recording in finished.all()]
    run = predict_to_files(
        model, unfinished, files, finished, make_key, overlap=flags.FLAGS.overlap, rules=rules, references=references,
        score=None if scores is None else scores.add,
    ).with_reused(reused)  # fmt: skip
    summary = _summarise(model, run, rules_name, scores)
    storage.atomic_write(out / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    write_overview(
        run, finished, files, page=flags.FLAGS.page, clips=flags.FLAGS.clips, clip_rate_hz=model.mel.sample_rate_hz
    )  # fmt: skip
    _print_results(run, rules_name, scores, out)
    return STOPPED if run.remaining else 1 if run.refused else 0


def _reuse_finished(
    sources: Sequence[AudioSource],
    finished: FinishedRecordings,
    make_key: KeyMaker,
    files: OutputFiles,
    references: Mapping[str, Recording],
    scores: ReferenceScores | None,
) -> list[AudioSource]:
    """Reuses finished recordings and their counts; returns the others."""
    from mfl_jax.inference.finished_recordings import find_unfinished

    unfinished = find_unfinished(sources, finished, make_key, files, references)
    for recording in finished.all():
        if scores is not None and recording.counts is not None:
            scores.add_counts(recording.counts)
    print(f"{len(sources) - len(unfinished)} of {len(sources)} recordings are finished and reused", file=sys.stderr)
    return unfinished


def _choose_rules(model: TrainedModel) -> tuple[dict[str, Rule], str]:
    """Returns the post-processing rules that --postprocess means, and their name in the summary."""
    from mfl_jax.inference import postprocessing

    choice, run_file = flags.FLAGS.postprocess, model.directory / postprocessing.RULES_FILE
    if choice == "none" or (choice == "auto" and not run_file.is_file()):
        return {label: postprocessing.Rule(threshold=model.config.threshold) for label in model.events}, "none"
    if choice != "auto":
        return postprocessing.read_rules(choice, model.events, step=model.step), choice
    is_tuned = '"step"' in run_file.read_text(encoding="utf-8", errors="replace")  # only --mode=tune names a checkpoint
    rules = postprocessing.read_rules(run_file, model.events, step=model.step)
    return rules, "tuned" if is_tuned else postprocessing.RULES_FILE


def _read_reference(
    model: TrainedModel, sources: Sequence[AudioSource], rules: Mapping[str, Rule]
) -> tuple[ReferenceScores, dict[str, Recording]]:
    """Reads --reference; returns empty scores, and the labels of each recording that it lists."""
    from mfl_jax.data.match_recordings import match_recordings
    from mfl_jax.scoring import reference_scores

    scores = reference_scores.ReferenceScores(model, reference_scores.read_reference(flags.FLAGS.reference, model), rules)
    paths = match_recordings([source.name for source in sources], scores.reference, require_all=False)
    return scores, {name: scores.reference[path] for name, path in paths.items()}


def _summarise(model: TrainedModel, run: FinishedRun, rules_name: str, scores: ReferenceScores | None) -> dict:
    """Returns the content of summary.json."""
    summary = {
        "checkpoint": str(model.directory), "step": model.step, "overlap": flags.FLAGS.overlap, "postprocess": rules_name,
        "complete": not run.remaining, "remaining": run.remaining, "reused": run.reused,
        "recordings": run.recordings, "duration_s": run.audio_s + run.reused_s, "seconds": run.wall_s,
    }  # fmt: skip
    if scores is not None:
        summary["scores"] = scores.scores() | {"recordings_scored": scores.scored}
    return summary


def _print_results(run: FinishedRun, rules_name: str, scores: ReferenceScores | None, out: pathlib.Path) -> None:
    import rich.console

    console, done, refused = rich.console.Console(), len(run.done), len(run.refused)
    if done:
        _print_done(console, run.done)
    if refused:
        _print_refused(console, run.refused)
    if scores is not None:
        _print_scores(console, scores, rules_name, done)
    if run.remaining:
        warn(f"interrupted: {run.remaining} recordings are not predicted yet; the same command with --resume goes on")
    console.print(
        f"{done} recordings done, {refused} refused; {run.audio_s / 3600:.2f} h of audio in {run.wall_s:.1f} s "
        f"({run.audio_s / run.wall_s:.0f} x real time); written to {out}",
        soft_wrap=True, highlight=False, markup=False,
    )  # fmt: skip


def _print_done(console: rich.console.Console, entries: Sequence[Mapping]) -> None:
    import rich.markup
    import rich.table

    table = rich.table.Table(title="done")
    for column in ("recording", "length", "scene", "events"):
        table.add_column(column, justify="right" if column == "length" else "left", overflow="fold")
    for entry in entries[:MAX_ROWS]:
        scene = f"{entry['scene']} ({entry['scene_probability']:.2f})" if entry["scene"] else ""
        events = ", ".join(f"{label} {count}" for label, count in entry["events"].items())
        length = f"{entry['duration_s']:.1f} s"
        table.add_row(*map(rich.markup.escape, (entry["recording"], length, scene, events)))
    if len(entries) > MAX_ROWS:
        table.add_row(f"and {len(entries) - MAX_ROWS} more", "", "", "")
    console.print(table)


def _print_refused(console: rich.console.Console, entries: Sequence[Mapping]) -> None:
    import rich.markup
    import rich.table

    table = rich.table.Table(title="refused")
    table.add_column("recording", overflow="fold")
    table.add_column("reason", overflow="fold")
    for entry in entries:
        table.add_row(*map(rich.markup.escape, (entry["recording"], entry["refused"])))
    console.print(table)


def _print_scores(console: rich.console.Console, reference_scores: ReferenceScores, rules_name: str, done: int) -> None:
    import rich.markup
    import rich.table

    reference, scored = flags.FLAGS.reference, reference_scores.scored
    if scored < done:
        warn(f"{done - scored} of {done} recordings are not in {reference} and are not scored")
    if reference_scores.lacks_events():
        warn(f"{reference} has no event in these recordings and none was detected; event scores are 0 of 0")
    for kind, count in (("scenes", reference_scores.without_scene), ("events", reference_scores.without_events)):
        if count:
            warn(f"{kind} of {count} of {scored} recordings are not scored: not annotated in {reference}, or none that is known")
    scores = reference_scores.scores()
    if not scores:
        return
    titles = {"clips": "as --mode=evaluate", "recordings": f"overlap {flags.FLAGS.overlap:g}, post-processing {rules_name}"}
    titles = {way: title for way, title in titles.items() if way in scores}
    table = rich.table.Table(title=rich.markup.escape(f"scores against {reference}: {scored} recordings, percent"))
    table.add_column("")
    for title in titles.values():
        table.add_column(rich.markup.escape(title), justify="right")
    for task in ("scene", "event"):
        if task in next(iter(scores.values())):
            for key, name in (("micro_f", "micro F"), ("macro_f", "macro F")):
                table.add_row(f"{task} {name}", *(f"{scores[way][task][key]:.2f}" for way in titles))
    console.print(table)
    if "clips" in scores and "scene" in scores["clips"]:
        console.print("scenes are scored per clip in the first column and per recording in the last", highlight=False)


if __name__ == "__main__":
    define_flags()
    commandline.run_with_arguments(run)
