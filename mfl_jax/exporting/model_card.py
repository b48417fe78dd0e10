"""The model card of an exported model: what it is, what it was trained on, how well it does, how to call it.

Every number in it is read from the checkpoint or from the results.json of the run.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence

from mfl_jax.errors import InputError

LICENCES = {
    "tut_scenes_events": "The recordings are the TUT data sets on Zenodo. They are for non-commercial scientific use, under a "
    "licence text of their own (EULA) that comes with each of them.",
    "soundscapes": "The recordings were synthesised by mfl_jax itself.",
    "annotated_audio": "The recordings are those of the person who trained the model.",
}
FLOORS = {
    ("scene", "majority"): "always the most frequent scene",
    ("event", "oracle_scene"): "the true scene known, and its usual events always",
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
"""How each format is called."""


def model_card(model, results: Mapping | None, form: str) -> str:
    """The card in Markdown, with an example in Python that runs in the folder of the exported model.

    Args:
      model: a `TrainedModel`. results: of `results_of_run`; None where the model was not scored.
      form: `onnx` or `stablehlo`.
    """
    parts = [
        _purpose(model),
        _training(model),
        _data(model),
        _scores(model, results),
        _interface(model, form),
        _limits(model, form),
    ]
    return "\n\n".join(parts) + "\n"


def read_results(model) -> dict | None:
    """What results.json in the directory of the run says of this very checkpoint; None where it does not.

    Raises:
      InputError: results.json is not readable.
    """
    file = model.directory / "results.json"
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        of_this = (results["checkpoint"]["which"], results["checkpoint"]["step"]) == (model.which, model.step)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: not the results of a run ({error}); delete it, or evaluate anew (--mode=evaluate)") from None
    return results if of_this else None


def _purpose(model) -> str:
    says = []
    if model.scenes:
        says.append(f"the acoustic scene, one of {len(model.scenes)}, in which a clip of sound was recorded")
    if model.events:
        says.append(f"which of {len(model.events)} sound events are active in each {_number(1000 * model.mel.hop_s)} ms of it")
    return f"# {model.config.name}: {_kind(model)}\n\nThis model says {', and '.join(says)}. It was trained with mfl_jax."


def _kind(model) -> str:
    kinds = ["acoustic scenes"] * bool(model.scenes) + ["sound events"] * bool(model.events)
    return " and ".join(kinds)


def _training(model) -> str:
    config = model.config
    rows = {
        "system": config.name,
        "tasks": ", ".join(config.tasks),
        "channels, hidden units": f"{config.channels}, {config.hidden}",
        "weight of the scene loss (alpha), of the event loss (beta)": f"{_number(config.alpha)}, {_number(config.beta)}",
        "balance, reduction of the loss": f"{config.balance}, {config.reduction}",
        "focus: eta (scenes), gamma (active), zeta (inactive frames)": ", ".join(
            map(_number, (config.eta, config.gamma, config.zeta))
        ),
        "learning rate, batch size": f"{_number(config.learning_rate)}, {config.batch_size}",
        "epochs of the config, seed": f"{config.epochs}, {config.seed}",
        "checkpoint": f"{model.which}, step {model.step}",
        "convolutions in training": config.compute,
    }
    return f"## Training\n\n{_table(('', ''), rows.items())}"


def _data(model) -> str:
    rows = [("data set", model.config.dataset), ("fingerprint", f"`{model.fingerprint}`")]
    rows += [(kind, ", ".join(getattr(model, kind))) for kind in ("scenes", "events") if getattr(model, kind)]
    return f"## Data\n\n{_table(('', ''), rows)}"


def _scores(model, results) -> str:
    if results is None:
        return "## Scores\n\nNone were measured for this checkpoint."
    rows = []
    for task in model.config.tasks:
        rows.append((f"**{task}: this model**", *_percent(results[task])))
        rows += [
            (f"{task}: {FLOORS.get((task, kind), kind)}", *_percent(floor)) for kind, floor in results["floors"][task].items()
        ]
    counted = f"{results['clips']} clips of the {results['split']} split of `{results['dataset']}`"
    return (
        f"## Scores\n\nMeasured on {counted}, in percent; scenes are scored clip by clip, events frame by frame at a threshold "
        f"of {_number(results['threshold'])}. The other rows are floors: what answers score that do not listen.\n\n"
        + _table(("", "micro F", "macro F"), rows)
    )


def _percent(scores: Mapping) -> tuple[str, str]:
    return tuple(f"{scores[key]:.2f}" for key in ("micro_f", "macro_f"))


def _interface(model, form: str) -> str:
    mel, samples = model.mel, model.clip_frames * model.mel.hop_samples
    rows = [
        (
            "input",
            "`waveform`",
            "float32",
            f"[clips, {samples}]",
            f"mono, {mel.sample_rate_hz} Hz, full scale +-1; zeros at the end",
        ),
        ("input", "`valid_samples`", "int32", "[clips]", f"samples of each clip before those zeros, 1 to {samples}"),
    ]
    example = [
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
        rows.append(
            ("output", "`scene_probabilities`", "float32", f"[clips, {len(model.scenes)}]", "in the order of the scenes above")
        )
        example.append('print(about["scenes"][scores["scene_probabilities"][0].argmax()])')
    if model.events:
        shape = f"[clips, {model.clip_frames}, {len(model.events)}]"
        rows.append(("output", "`event_probabilities`", "float32", shape, "a row a frame, in the order of the events above"))
        example += [
            'frames = scores["event_probabilities"][0, : -(-len(clip) // about["hop_samples"])]',
            'print({event: frames[:, m].max() for m, event in enumerate(about["events"])})',
        ]
    settings = {name: _number(value) for name, value in dataclasses.asdict(mel).items()}
    return (
        f"## Input and output\n\n{_table(('', 'name', 'dtype', 'shape', ''), rows)}\n\n"
        f"A clip lasts {_number(samples / mel.sample_rate_hz)} s. Frame t covers the samples [t, t + 1) * {mel.hop_samples}, so "
        f"that it begins at t * {_number(mel.hop_s)} s; of a clip with n valid samples, ceil(n / {mel.hop_samples}) frames "
        "count. `model.json` says the same for programs.\n\n"
        "```python\n" + "\n".join(example) + "\n```\n\n"
        "The log-mel spectrogram is computed inside, log(M |DFT(w x)|^2 + floor) with a periodic Hann window w, centred on the "
        f"middle of its frame, and Slaney's mel filters M:\n\n{_table(('', ''), settings.items())}"
    )


def _limits(model, form: str) -> str:
    limits = [
        "The answers are the classes above and no others; nothing says that a sound is none of them.",
        "The scores above, where there are any, are of the recordings above. Of other rooms and microphones nothing is known.",
        "A clip is heard alone, between silence. `mfl_jax.predict` computes the spectrogram on the whole recording and lets "
        "clips overlap, so that its answers differ a little, most near the ends of a clip.",
        f"Recordings of another rate are to be resampled to {model.mel.sample_rate_hz} Hz, and channels averaged, beforehand.",
    ]
    if form == "onnx" and model.config.compute != "float32":
        limits.append(f"It was trained with {model.config.compute} and computes with float32 here; answers differ a little.")
    licence = LICENCES.get(model.config.dataset.partition("/")[0])
    yours = (
        "Which licence the data have, and what it allows for a model that was trained on them, is for you to check before you "
        "use the model or pass it on."
    )
    return "\n\n".join(
        ["## Limits", "\n".join(f"- {limit}" for limit in limits), "## Licence", f"{licence} {yours}" if licence else yours]
    )


def _number(value: float) -> str:
    return f"{value:.10g}"


def _table(header: Sequence[str], rows) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
