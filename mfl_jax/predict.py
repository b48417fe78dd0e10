"""From recordings to scenes and events.

python -m mfl_jax.predict --checkpoint=runs/proposed --out=out RECORDING_OR_FOLDER_OR_LIST_OR_- ...
"""

import collections
import errno
import json
import pathlib
import tempfile
import time

from absl import flags

from mfl_jax.errors import InputError, warn
from mfl_jax.runtime import commandline

ROWS = 25
"""Recordings that the table on the screen shows; summary.json has them all."""


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_string("checkpoint", None, "Folder of a run, e.g. runs/proposed, or one of its checkpoints.")
    flags.DEFINE_string("out", "out", "Folder that everything is written to, a folder a format.")
    flags.DEFINE_list(
        "write", ["events", "json"], "Formats: events (TSV, as sed_eval reads it), json, audacity, jams, scores (TSV), npz."
    )
    flags.DEFINE_float("overlap", 0.5, "Share of a window that the next one has in common with it; 0 as in evaluating.")
    flags.DEFINE_string(
        "postprocess", "auto", "auto: what --mode=tune chose, if it did; none: a threshold alone; or a file of rules."
    )
    flags.DEFINE_string("reference", None, "A label list of the recordings, to compare with.")
    flags.DEFINE_boolean("plot", False, "Draw a picture of each recording.")
    flags.DEFINE_boolean("page", False, "Write a page with a player for each recording.")


def run(arguments: list[str]) -> int:
    """Does what the flags say; returns the exit status: 0, or 1 where recordings could not be read."""
    if not flags.FLAGS.checkpoint:
        raise InputError("--checkpoint=FOLDER is missing, e.g. --checkpoint=runs/proposed")
    if not arguments:
        raise InputError("name recordings, folders, lists of recordings, or - for the standard input")
    # Imported here, so that --help and wrong flags answer at once.
    from mfl_jax.inference import find_recordings, trained_model
    from mfl_jax.inference.writers import FORMATS
    from mfl_jax.runtime import parallel

    if unknown := [name for name in flags.FLAGS.write if name not in FORMATS]:
        raise InputError(f"--write: {unknown[0]!r} is no format; there are {', '.join(FORMATS)}")
    with tempfile.TemporaryDirectory(prefix="mfl_jax_") as spool:
        found = find_recordings.find_recordings(arguments, pathlib.Path(spool))
        parallel.keep_freed_memory()
        model = trained_model.load(flags.FLAGS.checkpoint)
        return _predict(model, found)


def _rules(model) -> tuple[dict, str]:
    """The rules of post-processing, and what to call them."""
    from mfl_jax.inference import postprocessing

    wanted, tuned = flags.FLAGS.postprocess, model.directory / postprocessing.FILE
    if wanted == "none" or (wanted == "auto" and not tuned.is_file()):
        return {label: postprocessing.Rule(threshold=model.config.threshold) for label in model.events}, "none"
    file, named = (tuned, "tuned") if wanted == "auto" else (wanted, wanted)
    return postprocessing.read(file, model.events, step=model.step), named


def _predict(model, found) -> int:
    import rich.console
    import rich.progress

    from mfl_jax.data import event_list
    from mfl_jax.inference import find_recordings, streaming
    from mfl_jax.runtime import storage
    from mfl_jax.runtime.progress import progress_bar
    from mfl_jax.scoring import reference_scores

    out = storage.expand_path(flags.FLAGS.out)
    rules, named = _rules(model)
    streaming.window_stride(model.clip_frames, flags.FLAGS.overlap)
    against, references = None, {}
    if flags.FLAGS.reference:
        against = reference_scores.ReferenceScores(model, reference_scores.read_reference(flags.FLAGS.reference, model), rules)
        names = event_list.match_recordings([source.name for source in found], against.reference, all_of_them=False)
        references = {name: against.reference[path] for name, path in names.items()}
    _folder(out)
    writers, made = _writers(model, found, out), []
    console = rich.console.Console(stderr=True)
    # Recordings whose length is unknown are mostly those that will be refused.
    whole = sum(find_recordings.read_duration_s(source) or 0 for source in found) or None
    # The bar counts seconds of audio, the text recordings.
    count = rich.progress.TextColumn("{task.fields[done]}/{task.fields[of]} recordings,")
    bar = progress_bar("{task.fields[rate]},", count, console=console)
    started, heard = time.perf_counter(), 0.0
    with bar:
        task = bar.add_task("listening", total=whole, done=0, of=len(found), rate="")

        def heard_s(some: float) -> None:
            nonlocal heard
            heard += some
            bar.update(task, completed=heard, rate=f"{heard / (time.perf_counter() - started):.0f} x real time")

        def refuse(name: str, why: str) -> None:
            console.print(f"refused: {name}: {why}", style="red", soft_wrap=True, highlight=False, markup=False)
            made.append({"recording": name, "refused": why})

        results = streaming.predict_recordings(
            model, found, overlap=flags.FLAGS.overlap, rules=rules, keep_clips=against is not None, heard_s=heard_s
        )
        for number, result in enumerate(results, 1):
            bar.update(task, done=number)
            if isinstance(result, streaming.Refused):
                why = result.reason.removeprefix(f"{result.source.file}: ")
                refuse(result.source.name, why)
                continue
            try:
                for write in writers:
                    write(result, references.get(result.recording))
            except OSError as error:
                why = f"can't be written ({error.strerror or error})"
                if error.errno not in (errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR):  # no matter of this recording alone
                    raise InputError(f"{out}: {result.recording} {why}") from None
                refuse(result.recording, why)
                continue
            if result.recording in references:
                against.add(result, references[result.recording])
            made.append(_summary(result))
    taken = time.perf_counter() - started
    made.sort(key=lambda entry: entry["recording"])
    summary = {
        "checkpoint": str(model.directory), "step": model.step, "overlap": flags.FLAGS.overlap, "postprocess": named,
        "recordings": made, "duration_s": heard, "seconds": taken,
    }  # fmt: skip
    if against is not None:
        summary["scores"] = against.scores() | {"recordings_scored": against.scored}
    storage.atomic_write(out / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    refused = [entry for entry in made if "refused" in entry]
    screen = rich.console.Console()
    _print_recordings(screen, made, refused)
    if against is not None:
        _print_scores(screen, against, named, len(made) - len(refused))
    screen.print(
        f"{len(made) - len(refused)} recordings done, {len(refused)} refused; {heard / 3600:.2f} h of audio in {taken:.1f} s "
        f"({heard / taken:.0f} x real time); written to {out}",
        soft_wrap=True, highlight=False, markup=False,
    )  # fmt: skip
    return 1 if refused else 0


def _folder(path: pathlib.Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: not a folder to write to ({error.strerror})") from None


def _writers(model, found, out):
    """Functions of a prediction and its reference (or None), each of which writes a file."""
    from mfl_jax.inference.writers import FORMATS

    files = {source.name: source.file for source in found}
    # Without its suffix, as long as no other file is called the same.
    targets = {name: pathlib.PurePosixPath(name).with_suffix("") for name in files}
    while shared := {target for target, count in collections.Counter(targets.values()).items() if count > 1}:
        targets = {name: pathlib.PurePosixPath(name) if target in shared else target for name, target in targets.items()}

    def target(kind, name, suffix):
        file = out / kind / targets[name].with_name(targets[name].name + suffix)
        _folder(file.parent)
        return file

    def writer(kind):
        write, suffix = FORMATS[kind]
        return lambda prediction, reference: write(prediction, target(kind, prediction.recording, suffix))

    made = [writer(kind) for kind in dict.fromkeys(flags.FLAGS.write)]

    def drawn(draw, kind, suffix):
        def write(prediction, reference):
            events = None if reference is None else reference.events
            name = prediction.recording
            draw(prediction, files[name], model.mel, target(kind, name, suffix), reference=events)

        return write

    if flags.FLAGS.plot:
        from mfl_jax.inference import picture

        made.append(drawn(picture.draw, "plots", ".png"))
    if flags.FLAGS.page:
        from mfl_jax.inference import page

        made.append(drawn(page.write, "pages", ".html"))
    return made


def _summary(prediction) -> dict:
    events = collections.Counter(event.label for event in prediction.detected)
    return {
        "recording": prediction.recording,
        "duration_s": prediction.duration_s,
        "scene": prediction.scene_label,
        "scene_probability": float(prediction.scene.max()) if prediction.scenes else None,
        "events": dict(events.most_common()),
    }


def _print_recordings(screen, made, refused) -> None:
    import rich.markup
    import rich.table

    done = [entry for entry in made if "refused" not in entry]
    if done:
        table = rich.table.Table(title="done")
        for column in ("recording", "length", "scene", "events"):
            table.add_column(column, justify="right" if column == "length" else "left", overflow="fold")
        for entry in done[:ROWS]:
            scene = f"{entry['scene']} ({entry['scene_probability']:.2f})" if entry["scene"] else ""
            events = ", ".join(f"{label} {count}" for label, count in entry["events"].items())
            length = f"{entry['duration_s']:.1f} s"
            table.add_row(*map(rich.markup.escape, (entry["recording"], length, scene, events)))
        if len(done) > ROWS:
            table.add_row(f"and {len(done) - ROWS} more", "", "", "")
        screen.print(table)
    if refused:
        table = rich.table.Table(title="refused")
        table.add_column("recording", overflow="fold")
        table.add_column("why", overflow="fold")
        for entry in refused:
            table.add_row(*map(rich.markup.escape, (entry["recording"], entry["refused"])))
        screen.print(table)


def _print_scores(screen, against, named: str, done: int) -> None:
    import rich.markup
    import rich.table

    if against.scored < done:
        warn(f"{done - against.scored} of {done} recordings are not in {flags.FLAGS.reference}, and count in no score")
    if not against.scored:
        return
    scores = against.scores()
    table = rich.table.Table(title=rich.markup.escape(f"against {flags.FLAGS.reference}: {against.scored} recordings, percent"))
    table.add_column("")
    ways = {"clips": "as --mode=evaluate", "recordings": f"overlap {flags.FLAGS.overlap:g}, post-processing {named}"}
    ways = {way: title for way, title in ways.items() if way in scores}
    for title in ways.values():
        table.add_column(rich.markup.escape(title), justify="right")
    for task in ("scene", "event"):
        if task in next(iter(scores.values())):
            for key, name in (("micro_f", "micro F"), ("macro_f", "macro F")):
                table.add_row(f"{task} {name}", *(f"{scores[way][task][key]:.2f}" for way in ways))
    screen.print(table)
    if "scene" in scores["recordings"]:
        screen.print("scenes: by clip in the first column, by recording in the last", highlight=False)


if __name__ == "__main__":
    define_flags()
    commandline.start_without_config(run)
