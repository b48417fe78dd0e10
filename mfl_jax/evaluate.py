"""From a checkpoint to scores, their floors, and results.json; and from two label lists to scores.

python -m mfl_jax.evaluate REFERENCE ESTIMATED
"""

import json
import pathlib
from collections.abc import Callable, Mapping

import jax
import numpy as np
import rich.console
import rich.table
from absl import flags

from mfl_jax import commandline, metrics, ownership, parallel, provenance, settings
from mfl_jax.checkpoints import Checkpoints
from mfl_jax.data import Clips, Dataset, batches
from mfl_jax.errors import InputError
from mfl_jax.run import build


def add_up(
    step: Callable, state, scalars: Mapping, clips: Clips, numbers: np.ndarray, batch_size: int, rows: slice | None = None
) -> dict:
    """Adds up `step.batch_sums` over clips.

    Args:
      step: a compiled `step.eval_step`. state: a `TrainState`. scalars: of the loss.
      clips, numbers, batch_size, rows: as `data.batches` takes them.

    Returns:
      The sums, on the host; counts as 64-bit integers, so that they hold whatever the size of the split.
    """
    total = None
    for batch in batches(clips, numbers, batch_size, rows=rows):
        sums = jax.tree.map(_wide, jax.device_get(step(state, batch, scalars)))
        total = sums if total is None else jax.tree.map(np.add, total, sums)
    return total


def _wide(count):
    count = np.asarray(count)
    return count.astype(np.int64 if np.issubdtype(count.dtype, np.integer) else np.float64)


def scores(sums: Mapping) -> dict:
    """The `scene` and `event` parts of results.json, for the tasks that were counted."""
    made = {}
    if "scene" in sums:
        made["scene"] = metrics.scene_ratios(sums["scene"]["counts"])
    if "event" in sums:
        made["event"] = metrics.frame_ratios(sums["event"]["counts"])
    return made


def activity(clips: Clips, numbers: np.ndarray, scenes: int, events: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts of each scene its clips [shape=(S,)], its valid frames [shape=(S,)], and those in which each event is active
    [shape=(S, E)].
    """
    scene, frames, active = np.zeros(scenes, np.int64), np.zeros(scenes, np.int64), np.zeros((scenes, events), np.int64)
    for batch in batches(clips, numbers, 64):
        valid = (np.arange(batch["events"].shape[1]) < batch["valid_frames"][:, None]) & batch["clip_mask"][:, None]
        np.add.at(scene, batch["scene"], batch["clip_mask"])
        np.add.at(frames, batch["scene"], valid.sum(1))
        np.add.at(active, batch["scene"], (batch["events"] & valid[..., None]).sum(1))
    return scene, frames, active


def floors(clips: Clips, numbers: np.ndarray, scenes: tuple[str, ...], events: tuple[str, ...]) -> dict:
    """What a split gives away to systems that do not listen.

    Returns:
      {"scene": {"majority": ...}, "event": {"all_off": ..., "always_on": ..., "oracle_scene": ...}}: the scores of always
      answering the most frequent scene; of no event ever; of all events always; and, knowing the true scene of each clip, of
      each event that is active in most frames of that scene, always (`detected` names them).
    """
    scene, frames, active = activity(clips, numbers, len(scenes), len(events))
    majority = int(scene.argmax())
    confusion = np.zeros((len(scenes), len(scenes)), np.int64)
    confusion[:, majority] = scene
    found = metrics.scene_ratios({"confusion": confusion})
    often = active * 2 > frames[:, None]
    rules = {"all_off": np.zeros_like(often), "always_on": np.ones_like(often), "oracle_scene": often}
    made = {
        "scene": {"majority": {"answer": scenes[majority], "micro_f": found["micro_f"], "macro_f": found["macro_f"]}},
        "event": {},
    }
    for name, detected in rules.items():
        counts = {key: np.zeros(len(events), np.int64) for key in ("tp", "fp", "fn")} | dict.fromkeys(
            ("substitutions", "deletions", "insertions", "active"), 0
        )
        for batch in batches(clips, numbers, 64):
            valid = (np.arange(batch["events"].shape[1]) < batch["valid_frames"][:, None]) & batch["clip_mask"][:, None]
            answer = np.broadcast_to(detected[batch["scene"]][:, None], batch["events"].shape)
            counts = jax.tree.map(np.add, counts, metrics.frame_counts(answer, batch["events"], valid))
        ratios = metrics.frame_ratios(counts)
        made["event"][name] = {key: ratios[key] for key in ("micro_f", "macro_f", "error_rate")}
    made["event"]["oracle_scene"]["detected"] = {
        name: [events[m] for m in np.flatnonzero(often[n])] for n, name in enumerate(scenes) if often[n].any()
    }
    return made


def results_of(
    config, dataset: Dataset, sums: Mapping, lowest: Mapping, *, split: str, checkpoint: Mapping, devices: list
) -> dict:
    """Puts together what results.json holds.

    Args:
      config: of the run. dataset: its data. sums: of `add_up` over the split. lowest: its `floors`.
      split: name of what was scored. checkpoint: which it was. devices: that computed.
    """
    return {
        "system": config.name,
        "dataset": config.dataset,
        "split": split,
        "clips": int(sums["clips"]),
        **scores(sums),
        "floors": {task: lowest[task] for task in config.tasks},
        "counts": {
            task: {name: np.asarray(count).tolist() for name, count in sums[task]["counts"].items()} for task in config.tasks
        },
        "scenes": list(dataset.scenes),
        "events": list(dataset.events),
        "threshold": config.threshold,
        "checkpoint": dict(checkpoint),
        "seed": config.seed,
        "matmul_precision": config.matmul_precision,
        "device": devices[0].device_kind,
        "devices": len(devices),
        "fingerprint": dataset.fingerprint,
        "hosts": parallel.hosts(),
        "code": provenance.code(),
        "versions": provenance.versions(),
    }


def write_results(file: pathlib.Path, results: Mapping) -> None:
    """Writes results.json, whole or not at all."""
    settings.write_whole(file, json.dumps(results, indent=1) + "\n")


def print_results(results: Mapping, console: rich.console.Console | None = None) -> None:
    """Prints the scores beside their floors."""
    table = rich.table.Table(title=f"{results['system']} on {results['dataset']}, {results['split']} split, percent")
    for column in ("", "score", "floor", "what the floor does"):
        table.add_column(column, justify="left" if column in ("", "what the floor does") else "right")

    def rows(task, kinds):
        for key, name in (("micro_f", "micro F"), ("macro_f", "macro F")):
            for number, (kind, what) in enumerate(kinds.items()):
                first = (f"{task} {name}", f"{results[task][key]:.2f}") if number == 0 else ("", "")
                table.add_row(*first, f"{results['floors'][task][kind][key]:.2f}", what)

    if "scene" in results:
        rows("scene", {"majority": f"always {results['floors']['scene']['majority']['answer']}"})
    if "event" in results:
        often = results["floors"]["event"]["oracle_scene"]["detected"]
        always = "; ".join(f"{', '.join(names)} in {scene}" for scene, names in often.items()) or "no event qualifies"
        rows(
            "event",
            {"oracle_scene": f"true scene known: always {always}", "always_on": "every event always", "all_off": "no event ever"},
        )
        if results["event"]["error_rate"] is not None:
            table.add_row("event error rate", f"{results['event']['error_rate']:.3f}", "1.000", "no event ever (a ratio)")
    (console or rich.console.Console()).print(table)


def event_scores_of(config, dataset: Dataset, workdir: pathlib.Path, kinds: list[str]) -> dict:
    """Scores of detected events beside the paper's scores of frames, on the evaluation split.

    Args:
      kinds: some of `segment`, `event`, `psds`.

    Returns:
      As `event_scores.score_frames`, and `postprocess`.

    Raises:
      InputError: the run detects no events, was not tuned where `config.postprocess` asks for it, or a package is missing.
    """
    from mfl_jax import clip_scores, event_scores, postprocessing, trained  # nothing else here needs their packages

    if "event" not in config.tasks:
        raise InputError(f"config.scores asks for {', '.join(kinds)}, and this system detects no events")
    model = trained.load(workdir)
    clips = dataset.read("evaluation")
    scored = clip_scores.frame_scores(model, clips, np.arange(len(clips)))
    scores = {recording: of_recording for recording, (of_recording, _) in scored.items()}
    hop_s = model.mel.hop_s
    durations_s = {recording: len(of_recording) * hop_s for recording, of_recording in scores.items()}
    rules = {label: postprocessing.Rule(threshold=config.threshold) for label in model.events}
    if config.postprocess == "tuned":
        rules = postprocessing.read(workdir / postprocessing.FILE, model.events, step=model.step)
    detected = {
        recording: postprocessing.detect(of_recording, model.events, rules, hop_s=hop_s, duration_s=durations_s[recording])
        for recording, of_recording in scores.items()
    }
    reference = {recording.path: recording.events for recording in dataset.recordings("evaluation")}
    made = event_scores.score_frames(
        scores, reference, model.events,
        hop_s=hop_s, durations_s=durations_s, kinds=kinds, threshold=config.threshold, detected=detected,
    )  # fmt: skip
    return {**made, "postprocess": config.postprocess}


def evaluate(config, dataset: Dataset, workdir: pathlib.Path, console: rich.console.Console | None = None) -> dict | None:
    """Scores a trained run on the evaluation split and writes results.json.

    The last checkpoint counts, as in the paper; with `validation`, the best on the held-out fold.

    Returns:
      What results.json holds; None on other hosts than the first one, which writes it.

    Raises:
      InputError: there is no checkpoint, or it was trained on other classes than the data set has.
    """
    which = "checkpoints" if config.validation == "none" else "best"
    if not settings.check_workdir(workdir, config) or not (workdir / which).is_dir():
        raise InputError(f"{workdir}: no checkpoint to evaluate; train first (--mode=train)")
    run = build(config, dataset)
    with ownership.owned(workdir):
        return _evaluated(config, dataset, workdir, run, which, console or rich.console.Console())


def _evaluated(config, dataset, workdir, run, which, console):
    with Checkpoints(workdir / which, keep=2, together=True) as checkpoints:
        if (found := checkpoints.resume(run.initial)) is None:
            raise InputError(f"{workdir}: no checkpoint to evaluate; train first (--mode=train)")
    state, described = found
    for kind in ("scenes", "events"):
        if tuple(described[kind]) != getattr(dataset, kind):
            raise InputError(f"{workdir} was trained on other {kind} than {dataset.directory} has")
    clips = dataset.read("evaluation")
    numbers = np.arange(len(clips))
    sums = add_up(run.eval_step, state, run.scalars, clips, numbers, config.batch_size, run.rows)
    if not parallel.is_first_host():
        return None
    lowest = floors(clips, numbers, dataset.scenes, dataset.events)
    results = results_of(
        config, dataset, sums, lowest,
        split="evaluation",
        checkpoint={
            "which": "last" if which == "checkpoints" else "best", "step": int(state.step), "epoch": described["epoch"],
        },
        devices=run.devices,
    )  # fmt: skip
    if kinds := [kind for kind in settings.scores_of(config) if kind != "frame"]:
        results["event_scores"] = event_scores_of(config, dataset, workdir, kinds)
    write_results(workdir / "results.json", results)
    print_results(results, console)
    if kinds:
        from mfl_jax import event_scores

        event_scores.print_scores(results["event_scores"], console)
    console.print(f"written: {workdir / 'results.json'}")
    return results


def define_flags() -> None:
    """Defines the flags of the comparison of two label lists."""
    flags.DEFINE_string("out", None, "JSON file for the scores.")
    flags.DEFINE_list("labels", None, "Events to score; all of the reference by default.")
    flags.DEFINE_float("segment_s", 1.0, "Length of a segment in seconds.")
    flags.DEFINE_float("onset_collar_s", 0.2, "By how many seconds an onset may differ.")
    flags.DEFINE_float("offset_collar_s", 0.2, "By how many seconds an offset may differ, or")
    flags.DEFINE_float("offset_share", 0.5, "by this share of the length of the event, where that is more (0.2 in DCASE task 4).")


def compare_lists(arguments: list[str]) -> int:
    """Compares two label lists, whatever made them; returns the exit status."""
    from mfl_jax import event_scores

    if len(arguments) != 2:
        raise InputError(f"two label lists are compared, REFERENCE and ESTIMATED, not {len(arguments)}")
    names = ("labels", "segment_s", "onset_collar_s", "offset_collar_s", "offset_share")
    scores = event_scores.evaluate_lists(*arguments, **{name: flags.FLAGS[name].value for name in names})
    console = rich.console.Console()
    event_scores.print_scores(scores, console)
    if flags.FLAGS.out:
        settings.write_whole(pathlib.Path(flags.FLAGS.out), json.dumps(scores, indent=1) + "\n")
        console.print(f"written: {flags.FLAGS.out}", soft_wrap=True, highlight=False, markup=False)
    return 0


if __name__ == "__main__":
    define_flags()
    commandline.start_without_config(compare_lists)
