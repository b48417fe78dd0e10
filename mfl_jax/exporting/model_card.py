"""The model card of an exported model: its purpose, training data, scores, interface and limits.

Every number comes from the checkpoint or from the results.json of the run.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence

from mfl_jax.errors import InputError
from mfl_jax.exporting.description import read_run_rules
from mfl_jax.inference import postprocessing
from mfl_jax.inference.trained_model import TrainedModel

LICENCES = {
    "tut_scenes_events": "The recordings are the TUT data sets on Zenodo. They are for non-commercial scientific use; each comes "
    "with its own licence text (EULA).",
    "soundscapes": "The recordings were synthesised by mfl_jax.",
    "annotated_audio": "The recordings were provided by the person who trained the model.",
}
FLOORS = {
    ("scene", "majority"): "always the most frequent scene",
    ("event", "oracle_scene"): "true scene known, its usual events always",
    ("event", "events_of_true_scene"): "true scene known, all its events always",
    ("event", "events_of_predicted_scene"): "all events of the predicted scene always",
    ("event", "always_on"): "every event always",
    ("event", "all_off"): "no event ever",
}
RUN = {
    "onnx": """\
import onnxruntime  # pip install onnxruntime
session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
names = [output["name"] for output in about["outputs"]]
scores = dict(zip(names, session.run(names, {"waveform": waveform, "valid_samples": valid_samples})))
""",
    "stablehlo": """\
from jax import export  # pip install jax flatbuffers
program = export.deserialize(bytearray(pathlib.Path("model.stablehlo").read_bytes()))
scores = program.call(waveform, valid_samples)
""",
}
"""Format -> end of the example, which runs the program."""


def build_model_card(model: TrainedModel, results: Mapping | None, form: str) -> str:
    """Builds the card in Markdown, with a Python example that runs in the folder of the exported model.

    Args:
      model: the exported model.
      results: as returned by `read_results`; None if the checkpoint was not scored.
      form: a key of `formats.FILES`.
    """
    parts = [
        _format_purpose(model),
        _format_training(model),
        _format_data(model),
        _format_scores(model, results),
        *_format_rules(model),
        _format_interface(model, form),
        _format_limits(model, form),
    ]
    return "\n\n".join(parts) + "\n"


def read_results(model: TrainedModel) -> dict | None:
    """Reads results.json of the run; None if it is missing or belongs to another checkpoint.

    Raises:
      InputError: results.json is invalid.
    """
    file = model.directory / "results.json"
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        checkpoint = results["checkpoint"]
        matches = (checkpoint["which"], checkpoint["step"]) == (model.which, model.step)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not the results of a run ({error}); delete it, or evaluate again (--mode=evaluate)") from None
    return results if matches else None


def _format_purpose(model: TrainedModel) -> str:
    outputs = []
    if model.scenes:
        outputs.append(f"the acoustic scene of a clip, one of {len(model.scenes)}")
    if model.events:
        outputs.append(f"which of {len(model.events)} sound events are active in each {_number(1000 * model.mel.hop_s)} ms of it")
    tasks = " and ".join(["acoustic scenes"] * bool(model.scenes) + ["sound events"] * bool(model.events))
    return f"# {model.config.name}: {tasks}\n\nThis model predicts {', and '.join(outputs)}. It was trained with mfl_jax."


def _format_training(model: TrainedModel) -> str:
    config = model.config
    rows = {
        "system": config.name,
        "tasks": ", ".join(config.tasks),
        "channels, hidden units": f"{config.channels}, {config.hidden}",
        "weights of the scene loss (alpha) and the event loss (beta)": f"{_number(config.alpha)}, {_number(config.beta)}",
        "balance and reduction of the loss": f"{config.balance}, {config.reduction}",
        "focus: eta (scenes), gamma (active), zeta (inactive frames)": ", ".join(
            map(_number, (config.eta, config.gamma, config.zeta))
        ),
        "learning rate, batch size": f"{_number(config.learning_rate)}, {config.batch_size}",
        "epochs of the config, seed": f"{config.epochs}, {config.seed}",
        "checkpoint": f"{model.which}, step {model.step}",
        "convolutions in training": config.compute,
        "parameters": f"averaged over steps (decay {_number(config.ema_decay)})" if config.ema_decay else "not averaged",
        "options that the paper does not have": ", ".join(_list_options(config)) or "none",
    }
    return f"## Training\n\n{_format_table(('', ''), rows.items())}"


def _list_options(config) -> list[str]:
    """Lists the options of training that the paper does not have."""
    fields = ("dropout", "prior_bias", "rare_event_sampling", "random_crops", "warmup_epochs", "weight_decay")
    options = [f"{field} {_number(config[field])}" for field in fields if config[field]]
    options += [f"loss term {name} {_number(weight)}" for name, weight in config.loss_terms.items() if weight]
    options += [f"{name} {_number(strength)}" for name, strength in config.augmentations.items() if strength]
    options += [f"{config.learning_rate_decay} decay"] * (config.learning_rate_decay != "none")
    return options + [f"optimiser {config.optimiser}"] * (config.optimiser != "radam")


def _format_rules(model: TrainedModel) -> list[str]:
    """Returns the section on the rules of the run, if it has any."""
    if not (rules := read_run_rules(model)):
        return []
    rows = [
        (label, f"{rule.threshold:.4g}", "" if rule.low_threshold is None else f"{rule.low_threshold:.4g}",
         *(f"{_number(value)} s" if value else "" for value in (rule.median_s, rule.max_gap_s, rule.min_duration_s)))
        for label, rule in rules.items()
    ]  # fmt: skip
    header = ("event", "threshold", "low threshold", "median filter", "merged gaps up to", "shortest event")
    return [
        "## Detection\n\nThe exported program returns probabilities. `mfl_jax.predict` turns them into events with the rules "
        f"below, from the run's `{postprocessing.RULES_FILE}`; `model.json` has them too.\n\n{_format_table(header, rows)}"
    ]


def _format_data(model: TrainedModel) -> str:
    rows = [("data set", model.config.dataset), ("fingerprint", f"`{model.fingerprint}`")]
    rows += [(kind, ", ".join(getattr(model, kind))) for kind in ("scenes", "events") if getattr(model, kind)]
    return f"## Data\n\n{_format_table(('', ''), rows)}"


def _format_scores(model: TrainedModel, results: Mapping | None) -> str:
    if results is None:
        return "## Scores\n\nThis checkpoint was not scored."
    rows = []
    for task in model.config.tasks:
        rows.append((f"**{task}: this model**", *_format_percent(results[task])))
        floors = results["floors"][task].items()
        rows += [(f"{task}: {FLOORS.get((task, kind), kind)}", *_format_percent(floor)) for kind, floor in floors]
    split = f"{results['clips']} clips of the {results['split']} split of `{results['dataset']}`"
    if (counted := results.get("scene_clips", results["clips"])) < results["clips"]:
        split += f" (scenes: {counted} of them; the others are too short or not annotated)"
    if (counted := results.get("event_clips", results["clips"])) < results["clips"]:
        split += f" (events: {counted} of them; the others are not annotated)"
    return (
        f"## Scores\n\nMeasured on {split}, in percent. Scenes are scored clip by clip, events frame by frame at a threshold of "
        f"{_number(results['threshold'])}. The other rows are floors: the scores of answers that ignore the audio.\n\n"
        + _format_table(("", "micro F", "macro F"), rows)
    )


def _format_percent(scores: Mapping) -> tuple[str, str]:
    return f"{scores['micro_f']:.2f}", f"{scores['macro_f']:.2f}"


def _format_interface(model: TrainedModel, form: str) -> str:
    mel, samples = model.mel, model.clip_frames * model.mel.hop_samples
    settings = {name: _number(value) for name, value in dataclasses.asdict(mel).items()}
    return (
        f"## Input and output\n\n{_format_table(('', 'name', 'dtype', 'shape', ''), _list_ports(model))}\n\n"
        f"A clip lasts {_number(samples / mel.sample_rate_hz)} s. Frame t covers the samples [t, t + 1) * {mel.hop_samples} and "
        f"starts at t * {_number(mel.hop_s)} s; of a clip with n valid samples, the first ceil(n / {mel.hop_samples}) frames are "
        "valid. `model.json` holds the same in machine-readable form.\n\n"
        "```python\n" + "\n".join(_build_example(model, form)) + "\n```\n\n"
        "The program computes the log-mel spectrogram, log(M |DFT(w x)|^2 + floor), with a periodic Hann window w, centred on "
        f"the middle of its frame, and Slaney's mel filters M:\n\n{_format_table(('', ''), settings.items())}"
    )


def _list_ports(model: TrainedModel) -> list[tuple[str, ...]]:
    """Rows of the table of inputs and outputs."""
    mel, samples = model.mel, model.clip_frames * model.mel.hop_samples
    waveform = f"mono, {mel.sample_rate_hz} Hz, full scale +-1, padded with zeros at the end"
    rows: list[tuple[str, ...]] = [
        ("input", "`waveform`", "float32", f"[clips, {samples}]", waveform),
        ("input", "`valid_samples`", "int32", "[clips]", f"samples of each clip before the padding, 1 to {samples}"),
    ]
    if model.scenes:
        shape = f"[clips, {len(model.scenes)}]"
        rows.append(("output", "`scene_probabilities`", "float32", shape, "in the order of the scenes above"))
    if model.events:
        shape = f"[clips, {model.clip_frames}, {len(model.events)}]"
        rows.append(("output", "`event_probabilities`", "float32", shape, "one row per frame, in the order of the events above"))
    return rows


def _build_example(model: TrainedModel, form: str) -> list[str]:
    """Lines of a Python program that runs the exported model on a recording."""
    lines = [
        "import json, pathlib",
        "import numpy as np, soundfile",
        'about = json.loads(pathlib.Path("model.json").read_text())',
        'recording, rate = soundfile.read("recording.wav", dtype="float32", always_2d=True)',
        'assert rate == about["sample_rate_hz"], "resample the recording first"',
        'clip = recording.mean(axis=1)[: about["clip_samples"]]',
        'waveform = np.pad(clip, (0, about["clip_samples"] - len(clip)))[None]',
        "valid_samples = np.array([len(clip)], np.int32)",
        *RUN[form].strip().splitlines(),
    ]
    if model.scenes:
        lines.append('print(about["scenes"][scores["scene_probabilities"][0].argmax()])')
    if model.events:
        lines += [
            'frames = scores["event_probabilities"][0, : -(-len(clip) // about["hop_samples"])]',
            'print({event: frames[:, m].max() for m, event in enumerate(about["events"])})',
        ]
    return lines


def _format_limits(model: TrainedModel, form: str) -> str:
    limits = [
        "The model knows only the classes above. It has no output for other sounds.",
        "The scores above, if any, hold for the recordings above. How well it does with other rooms and microphones is unknown.",
        "Each clip is processed alone, as if surrounded by silence. `mfl_jax.predict` computes the spectrogram of the whole "
        "recording and lets clips overlap, so its results differ slightly, most near the ends of a clip.",
        f"Resample recordings of another rate to {model.mel.sample_rate_hz} Hz, and average their channels, first.",
    ]
    if form == "onnx" and model.config.compute != "float32":
        limits.append(f"Trained with {model.config.compute}; this program computes in float32, so results differ slightly.")
    licence = LICENCES.get(model.config.dataset.partition("/")[0], "")
    advice = (
        "Check the licence of the data, and what it permits for a model trained on them, before you use the model or pass it on."
    )
    bullets = "\n".join(f"- {limit}" for limit in limits)
    return "\n\n".join(["## Limits", bullets, "## Licence", f"{licence} {advice}".lstrip()])


def _number(value: float) -> str:
    return f"{value:.10g}"


def _format_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
