"""Writes a page that plays a recording and shows its prediction: one HTML file that works offline.

The sound is mono at 24 kHz: FLAC up to a minute, then MP3 at a constant 56 kbit/s (a page of 34 MB per hour). Recordings longer
than an hour are not embedded; the page plays the file itself.

Measured in Chromium: FLAC, Vorbis, Opus and constant-rate MP3 seek exactly; variable-rate MP3 misses by up to 1.6 s. Vorbis and
Opus are not used because older versions of Safari do not play them. Firefox and Safari were not measured.
"""

import base64
import dataclasses
import html
import importlib.resources
import io
import json
import os
import pathlib
import re
import tempfile
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import librosa
import matplotlib
import numpy as np
import PIL.Image
import soundfile

from mfl_jax.data import audio_reader
from mfl_jax.data.annotation import Event
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.errors import InputError
from mfl_jax.inference import display_data
from mfl_jax.inference.display_data import format_count
from mfl_jax.inference.postprocessing import Rule
from mfl_jax.inference.prediction import Prediction
from mfl_jax.runtime import storage

COLUMNS = 4000
"""Maximum number of columns of spectrogram and scores: every frame of 80 s at the usual hop, or 0.9 s each for an hour."""
MAX_EMBEDDED_S = 3600.0
"""The sound of longer recordings is linked, not embedded."""
MAX_LOSSLESS_S = 60.0
"""The sound of recordings up to this length is FLAC."""
RATE_HZ = 24_000
MAX_ADJUSTABLE_SCORES = 10_000_000
"""The page can detect events again if it has at most so many scores, frames times events: one byte each."""
LEVELS = tuple(step / 100 for step in range(1, 101))
"""Thresholds that the page offers."""
MP3_DELAY_SAMPLES = 1105
"""Delay of MP3: 576 samples in LAME and 529 in any decoder."""


def write_page(
    prediction: Prediction,
    audio_file: str | pathlib.Path,
    mel: MelConfig,
    out_html: str | pathlib.Path,
    *,
    reference: Sequence[Event] | None = None,
    rules: Mapping[str, Rule] | None = None,
) -> None:
    """Writes the page of a recording, atomically.

    Args:
      prediction: the prediction for the recording.
      audio_file: the recording.
      mel: settings of the spectrograms of the model.
      out_html: file to write.
      reference: true events, shown below the detected ones, or None.
      rules: rules that detected the events; `Rule()` for events without one. The page can change their thresholds.

    Raises:
      InputError: the recording can't be read or is not the one that was predicted, or the page can't be written.
    """
    out_html = pathlib.Path(out_html)
    log_mel = display_data.read_spectrogram(prediction, audio_file, mel, COLUMNS)
    page_data = _build_page_data(prediction, log_mel, mel, reference, rules or {})
    is_linked = prediction.duration_s > MAX_EMBEDDED_S
    if is_linked:
        relative = os.path.relpath(pathlib.Path(audio_file).absolute(), out_html.absolute().parent)
        page_data["linked"] = urllib.parse.quote(os.fsencode(relative.replace(os.sep, "/")))
        page_data["linked_name"] = pathlib.Path(audio_file).name
    contents = {
        "TITLE": html.escape(prediction.recording),
        # A linked sound is loaded from the folder of the page. Under file: that origin has no other name than the scheme.
        "MEDIA": "'self' file:" if is_linked else "blob:",
        "SPECTROGRAM": _encode_spectrogram(log_mel),
        "DATA": _encode_json(page_data),
    }
    try:
        with tempfile.TemporaryDirectory() as folder:
            sound = os.path.join(folder, "sound")
            media_type = None if is_linked else _encode_sound(audio_file, prediction.duration_s, sound)
            _fill_template(out_html, contents, sound, media_type)
    except soundfile.LibsndfileError as error:
        raise InputError(f"{out_html}: libsndfile can't write its sound ({error.error_string}); reinstall soundfile") from None
    except OSError as error:
        raise InputError(f"{out_html}: can't be written ({error.strerror}); choose another place") from None


def _fill_template(out_html: pathlib.Path, contents: dict[str, str], sound: str, media_type: str | None) -> None:
    template = importlib.resources.files("mfl_jax.inference").joinpath("page.html").read_text(encoding="utf-8")
    with storage.atomic_path(out_html) as part, part.open("w", encoding="utf-8", errors="replace") as out:
        # Split once, at the placeholders of the template, so that contents are never searched for placeholders.
        for number, piece in enumerate(re.split(r"@@([A-Z]+)@@", template)):
            if number % 2 == 0:
                out.write(piece)
            elif piece != "SOUND":
                out.write(contents[piece])
            elif media_type:
                out.write(f"data:{media_type};base64,")
                out.writelines(_read_base64(sound))


def _build_page_data(
    prediction: Prediction,
    log_mel: np.ndarray,
    mel: MelConfig,
    reference: Sequence[Event] | None,
    rules: Mapping[str, Rule],
) -> dict[str, object]:
    """Returns the data of the script of the page."""
    scores, scenes = display_data.reduce_scores(prediction, COLUMNS), display_data.average_scenes(prediction, COLUMNS)
    occurring = display_data.list_occurring_events(prediction, reference)
    # Events with something to click on come first.
    shown = sorted(display_data.choose_events(prediction, scores, reference), key=lambda label: label not in occurring)
    row = {label: index for index, label in enumerate(shown)}
    scored = [label for label in shown if label in prediction.events] if len(scores) else []
    columns = [prediction.events.index(label) for label in scored]
    probable = [index for index in range(len(prediction.scenes)) if scenes[:, index].max() >= display_data.MIN_SCORE]
    frames = display_data.count_spectrogram_frames(prediction, mel)
    hidden_counts = {
        "event": len(prediction.events) - sum(label in prediction.events for label in shown),
        "scene": len(prediction.scenes) - len(probable),
    }
    centres_hz = librosa.mel_frequencies(n_mels=mel.mel_bins + 2, fmin=mel.low_hz, fmax=mel.high_hz, htk=False)[1:-1]
    ticks = display_data.choose_frequency_ticks(mel, 0.1)
    return {
        "duration_s": prediction.duration_s,
        "summary": _summarise(prediction, reference),
        "notes": _write_notes(hidden_counts, frames * mel.hop_s / COLUMNS if frames > COLUMNS else None),
        "spectrogram_extent_s": frames * mel.hop_s,
        "scores_extent_s": len(prediction.frame_scores) * prediction.hop_s,
        "mel_hz": [round(float(hz), 1) for hz in centres_hz],
        "ticks_hz": [[hz, (position + 0.5) / mel.mel_bins] for hz, position in ticks],
        "scenes": [prediction.scenes[index] for index in probable],
        "scene_scores": _encode_scores(scenes[:, probable]),
        "events": shown,
        "events_named": len(occurring),
        "scored": [row[label] for label in scored],
        "event_scores": _encode_scores(scores[:, columns]),
        "adjustable": _build_adjustable(prediction, columns, rules),
        "detected": [[row[e.label], e.onset_s, e.offset_s, float(e.confidence)] for e in prediction.detected],
        "reference": None if reference is None else [[row[e.label], e.onset_s, e.offset_s] for e in reference],
    }


def _build_adjustable(prediction: Prediction, columns: Sequence[int], rules: Mapping[str, Rule]) -> dict[str, object] | None:
    """Returns what the page needs to detect events again with other thresholds; None if it shows none or would be too large.

    The rank of a score says how many of the levels of its event it reaches, so the page compares it exactly as `find_event_runs`
    compares the score itself.

    Args:
      prediction: the prediction.
      columns: events that the page shows, as columns of the frame scores.
      rules: rules of the events; `Rule()` for events without one.
    """
    frames = len(prediction.frame_scores)
    if not columns or frames * len(columns) > MAX_ADJUSTABLE_SCORES:
        return None
    by_event = {label: rules.get(label, Rule()) for label in prediction.events}
    levels, ranks = [], np.empty((len(columns), frames), np.uint8)
    for row, column in enumerate(columns):
        rule = by_event[prediction.events[column]]
        levels.append(sorted({*LEVELS, rule.threshold, rule.lowest}))
        scores = np.asarray(prediction.frame_scores[:, column], np.float32)
        ranks[row] = np.searchsorted(np.asarray(levels[-1], np.float32), scores, side="right")
    return {
        "hop_s": prediction.hop_s,
        "rules": {label: dataclasses.asdict(rule) for label, rule in by_event.items()},
        "levels": levels,
        "ranks": base64.b64encode(ranks.tobytes()).decode(),
    }


def _summarise(prediction: Prediction, reference: Sequence[Event] | None) -> str:
    sentences = []
    if prediction.scene_label is not None:
        sentences.append(f"Scene: {prediction.scene_label} ({float(prediction.scene.max()):.2f}).")
    if prediction.events:
        sentences.append(f"{format_count(len(prediction.detected), 'event')} detected.")  # the page updates this sentence
    if reference is not None:
        sentences.append(f"{format_count(len(reference), 'event')} in the reference.")
    return " ".join(sentences)


def _write_notes(hidden: dict[str, int], column_s: float | None) -> str:
    """Explains what the page leaves out: counts of hidden classes by kind, and the seconds per column if frames are merged."""
    threshold = f"{display_data.MIN_SCORE:g}"
    notes = [f"{format_count(count, kind)} hidden (score below {threshold})." for kind, count in hidden.items() if count]
    if column_s is not None:
        notes.append(f"Spectrogram and scores show the maximum over each {column_s:.2g} s.")
    return " ".join(notes)


def _encode_sound(audio_file: str | pathlib.Path, duration_s: float, out: str) -> str:
    """Writes the sound of a recording to `out`, in bounded memory; returns its media type."""
    media_type = "audio/flac" if duration_s <= MAX_LOSSLESS_S else "audio/mpeg"
    settings: dict[str, Any] = {"format": "FLAC", "subtype": "PCM_16"}
    if media_type == "audio/mpeg":
        settings = {
            "format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": 0.7,
        }  # fmt: skip
    # A constant-rate MP3 does not declare its delay. Dropping as many samples at the start puts everything after them in its
    # place; these 46 ms are silent in any case.
    skipped = MP3_DELAY_SAMPLES if media_type == "audio/mpeg" else 0
    with soundfile.SoundFile(out, "w", RATE_HZ, 1, **settings) as file:
        for block in audio_reader.stream_mono(audio_file, RATE_HZ):
            rest = min(skipped, len(block))
            skipped -= rest
            file.write(block[rest:].clip(-1, 1))
    return media_type


def _encode_spectrogram(log_mel: np.ndarray) -> str:
    """Encodes a spectrogram as a PNG of 256 colours, low frequencies at the bottom, in base64."""
    low, high = display_data.colour_limits(log_mel)
    shades = np.round(255 * ((log_mel - low) / (high - low)).clip(0, 1)).astype(np.uint8)
    image = PIL.Image.fromarray(np.ascontiguousarray(shades.T[::-1]))
    image.putpalette((255 * matplotlib.colormaps["magma"](np.arange(256))[:, :3]).round().astype(np.uint8).tobytes())
    encoded = io.BytesIO()
    image.save(encoded, format="PNG", optimize=True)
    return base64.b64encode(encoded.getvalue()).decode()


def _encode_scores(scores: np.ndarray) -> str:
    """Encodes probabilities [shape=(C, K)] as one byte each, class after class, in base64."""
    return base64.b64encode(np.round(255 * scores.T.clip(0, 1)).astype(np.uint8).tobytes()).decode()


def _encode_json(value: object) -> str:
    """Encodes JSON for a <script>: escapes `<`, so that it can hold neither `</script>` nor `<!--`."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _read_base64(file: str) -> Iterator[str]:
    with open(file, "rb") as binary:
        while block := binary.read(3 << 20):  # a multiple of 3 bytes needs no padding
            yield base64.b64encode(block).decode()
