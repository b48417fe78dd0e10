"""From a checkpoint to scores, their floors, and results.json."""

import pathlib
from collections.abc import Mapping

import numpy as np
import rich.console
import rich.table

from mfl_jax.data.prepared_dataset import Dataset
from mfl_jax.errors import InputError
from mfl_jax.inference import postprocessing, trained_model
from mfl_jax.runtime import parallel, workdir_config, workdir_lock
from mfl_jax.scoring import clip_scores, floor_scores
from mfl_jax.training import config_checks, evaluation
from mfl_jax.training.checkpoints import Checkpoints
from mfl_jax.training.setup import build_run


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


def score_events(config, dataset: Dataset, workdir: pathlib.Path, kinds: list[str]) -> dict:
    """Scores of detected events beside the paper's scores of frames, on the evaluation split.

    Args:
      kinds: some of `segment`, `event`, `psds`.

    Returns:
      As `event_scores.score_frames`, and `postprocess`.

    Raises:
      InputError: the run detects no events, was not tuned where `config.postprocess` asks for it, or a package is missing.
    """

    from mfl_jax.scoring import event_scores  # nothing else here needs their packages

    if "event" not in config.tasks:
        raise InputError(f"config.scores asks for {', '.join(kinds)}, and this system detects no events")
    model = trained_model.load(workdir)
    clips = dataset.read("evaluation")
    scored = clip_scores.recording_probabilities(model, clips, np.arange(len(clips)))
    scores = {recording: of_recording for recording, (of_recording, _) in scored.items()}
    hop_s = model.mel.hop_s
    durations_s = {recording: len(of_recording) * hop_s for recording, of_recording in scores.items()}
    rules = {label: postprocessing.Rule(threshold=config.threshold) for label in model.events}
    if config.postprocess == "tuned":
        rules = postprocessing.read_rules(workdir / postprocessing.RULES_FILE, model.events, step=model.step)
    detected = {
        recording: postprocessing.detect_events(of_recording, model.events, rules, hop_s=hop_s, duration_s=durations_s[recording])
        for recording, of_recording in scores.items()
    }
    reference = {recording.path: recording.events for recording in dataset.recordings("evaluation")}
    made = event_scores.score_frames(
        scores, reference, model.events,
        hop_s=hop_s, durations_s=durations_s, kinds=kinds, threshold=config.threshold, detected=detected,
    )  # fmt: skip
    return {**made, "postprocess": config.postprocess}


def evaluate_run(config, dataset: Dataset, workdir: pathlib.Path, console: rich.console.Console | None = None) -> dict | None:
    """Scores a trained run on the evaluation split and writes results.json.

    The last checkpoint counts, as in the paper; with `validation`, the best on the held-out fold.

    Returns:
      What results.json holds; None on other hosts than the first one, which writes it.

    Raises:
      InputError: there is no checkpoint, or it was trained on other classes than the data set has.
    """
    which = "checkpoints" if config.validation == "none" else "best"
    if not workdir_config.check_workdir(workdir, config) or not (workdir / which).is_dir():
        raise InputError(f"{workdir}: no checkpoint to evaluate; train first (--mode=train)")
    run = build_run(config, dataset)
    with workdir_lock.lock_workdir(workdir):
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
    sums = evaluation.accumulate_counts(run.eval_step, state, run.scalars, clips, numbers, config.batch_size, run.rows)
    if not parallel.is_first_host():
        return None
    lowest = floor_scores.compute_floors(clips, numbers, dataset.scenes, dataset.events)
    results = evaluation.build_results(
        config, dataset, sums, lowest,
        split="evaluation",
        checkpoint={
            "which": "last" if which == "checkpoints" else "best", "step": int(state.step), "epoch": described["epoch"],
        },
        devices=run.devices,
    )  # fmt: skip
    if kinds := [kind for kind in config_checks.requested_scores(config) if kind != "frame"]:
        results["event_scores"] = score_events(config, dataset, workdir, kinds)
    evaluation.write_results(workdir / "results.json", results)
    print_results(results, console)
    if kinds:
        from mfl_jax.scoring import event_scores

        event_scores.print_scores(results["event_scores"], console)
    console.print(f"written: {workdir / 'results.json'}")
    return results
