"""A page of a recording to listen to and to look at: one HTML file that needs no network.

Its sound is mono at 24 kHz: FLAC up to a minute, then MP3 of 56 kbit/s at a constant rate, 34 MB of page an hour. Recordings
longer than an hour are played from where they lie. Measured in Chromium: FLAC, Vorbis, Opus, and MP3 at a constant rate seek to
the very place, MP3 at a variable rate misses it by up to 1.6 s. Vorbis and Opus are left aside because older versions of Safari
do not play them; in Firefox and Safari themselves nothing was measured.
"""

import base64
import html
import importlib.resources
import io
import json
import os
import pathlib
import re
import tempfile
import urllib.parse
from collections.abc import Iterator, Sequence

import librosa
import matplotlib
import numpy as np
import PIL.Image
import soundfile

from mfl_jax.data import audio_reader
from mfl_jax.data.annotation import Event
from mfl_jax.data.mel_spectrogram import MelConfig
from mfl_jax.errors import InputError
from mfl_jax.inference import picture
from mfl_jax.inference.prediction import Prediction
from mfl_jax.runtime import storage

COLUMNS = 4000
"""At most so many columns of spectrogram and scores: every frame of 80 s at the usual hop, 0.9 s each in an hour."""
LONGEST_S = 3600.0
"""Longer recordings are linked, not embedded."""
LOSSLESS_S = 60.0
"""Up to here the sound is FLAC."""
RATE_HZ = 24_000
MP3_DELAY_SAMPLES = 1105
"""By how much a sound comes late out of MP3: 576 samples in LAME, 529 in any decoder."""


def _encode(audio_file, duration_s: float, out: str) -> str:
    """Writes the sound of a recording, in bounded memory; returns its media type."""
    if duration_s <= LOSSLESS_S:
        media, settings = "audio/flac", {"format": "FLAC", "subtype": "PCM_16"}
    else:
        media = "audio/mpeg"
        settings = {
            "format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": 0.7,
        }  # fmt: skip
    # At a constant rate nothing in the file tells a player of the delay. Its first 46 ms are silent in any case, so that
    # the sound may start as much earlier and everything after them is in its place.
    skipped = MP3_DELAY_SAMPLES if media == "audio/mpeg" else 0
    with soundfile.SoundFile(out, "w", RATE_HZ, 1, **settings) as file:
        for block in audio_reader.stream_mono(audio_file, RATE_HZ):
            rest = min(skipped, len(block))
            skipped -= rest
            file.write(block[rest:].clip(-1, 1))
    return media


def _png(log_mel: np.ndarray) -> str:
    """The spectrogram as a PNG of 256 colours, low frequencies at the bottom, in base64."""
    low, high = picture.energy_limits(log_mel)
    shades = np.round(255 * ((log_mel - low) / (high - low)).clip(0, 1)).astype(np.uint8)
    image = PIL.Image.fromarray(np.ascontiguousarray(shades.T[::-1]))
    image.putpalette((255 * matplotlib.colormaps["magma"](np.arange(256))[:, :3]).round().astype(np.uint8).tobytes())
    encoded = io.BytesIO()
    image.save(encoded, format="PNG", optimize=True)
    return base64.b64encode(encoded.getvalue()).decode()


def _bytes(scores: np.ndarray) -> str:
    """Probabilities [shape=(C, K)] as bytes, class after class, in base64."""
    return base64.b64encode(np.round(255 * scores.T.clip(0, 1)).astype(np.uint8).tobytes()).decode()


def _data(prediction: Prediction, log_mel: np.ndarray, mel: MelConfig, reference: Sequence[Event] | None) -> dict:
    """What the script of the page is told."""
    scores, scenes = picture.score_columns(prediction, COLUMNS), picture.scene_columns(prediction, COLUMNS)
    named = {event.label for event in prediction.detected} | {event.label for event in reference or ()}
    # Those with something to click on come first.
    shown = sorted(picture.shown_events(prediction, scores, reference), key=lambda label: label not in named)
    known = [label for label in shown if label in prediction.events] if len(scores) else []
    row = {label: index for index, label in enumerate(shown)}
    columns = [prediction.events.index(label) for label in known]
    probable = [index for index in range(len(prediction.scenes)) if scenes[:, index].max() >= picture.FAINT]
    notes = []
    for kind, count in (
        ("event", len(prediction.events) - sum(label in prediction.events for label in shown)),
        ("scene", len(prediction.scenes) - len(probable)),
    ):
        if count:
            notes.append(f"{count} {kind}{'s' * (count != 1)} left out that stay{'s' * (count == 1)} below {picture.FAINT:g}.")
    frames = max(1, mel.frames(round(prediction.duration_s * mel.sample_rate_hz)))
    if frames > COLUMNS:
        notes.append(f"Spectrogram and scores show the maximum over each {frames * mel.hop_s / COLUMNS:.2g} s.")
    heard = []
    if prediction.scene_label is not None:
        heard.append(f"Scene: {prediction.scene_label} ({float(prediction.scene.max()):.2f}).")
    if prediction.events:
        heard.append(f"{len(prediction.detected)} event{'s' * (len(prediction.detected) != 1)} detected.")
    if reference is not None:
        heard.append(f"{len(reference)} event{'s' * (len(reference) != 1)} in the reference.")
    centres_hz = librosa.mel_frequencies(n_mels=mel.mel_bins + 2, fmin=mel.low_hz, fmax=mel.high_hz, htk=False)[1:-1]
    return {
        "duration_s": prediction.duration_s,
        "summary": " ".join(heard),
        "notes": " ".join(notes),
        "spectrogram_extent_s": frames * mel.hop_s,
        "scores_extent_s": len(prediction.frame_scores) * prediction.hop_s,
        "mel_hz": [round(float(hz), 1) for hz in centres_hz],
        "ticks_hz": [[hz, (place + 0.5) / mel.mel_bins] for hz, place in picture.ticks_hz(mel, 0.1)],
        "scenes": [prediction.scenes[index] for index in probable],
        "scene_scores": _bytes(scenes[:, probable]),
        "events": shown,
        "events_named": len(named),
        "scored": [row[label] for label in known],
        "event_scores": _bytes(scores[:, columns]),
        "detected": [[row[e.label], e.onset_s, e.offset_s, float(e.confidence)] for e in prediction.detected],
        "reference": None if reference is None else [[row[e.label], e.onset_s, e.offset_s] for e in reference],
    }


def _json(value) -> str:
    """JSON that may stand in a <script>: no `<` in it, so neither `</script>` nor `<!--`."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _base64_of(file: str) -> Iterator[str]:
    with open(file, "rb") as opened:
        while block := opened.read(3 << 20):  # a multiple of 3, so that the parts join without padding
            yield base64.b64encode(block).decode()


def write(
    prediction: Prediction,
    audio_file: str | pathlib.Path,
    mel: MelConfig,
    out_html: str | pathlib.Path,
    *,
    reference: Sequence[Event] | None = None,
) -> None:
    """Writes the page of a recording; the file is there whole or not at all.

    Args:
      prediction: what was heard. audio_file: the recording. mel: the settings of the model's spectrograms.
      out_html: the file to write. reference: the true events, to be shown below the detected ones, or None.

    Raises:
      InputError: the recording can't be read or is another one, or the page can't be written.
    """
    out_html = pathlib.Path(out_html)
    log_mel = picture.spectrogram_columns(prediction, audio_file, mel, COLUMNS)
    about = _data(prediction, log_mel, mel, reference)
    linked = prediction.duration_s > LONGEST_S
    if linked:
        place = os.path.relpath(pathlib.Path(audio_file).absolute(), out_html.absolute().parent)
        about["linked"] = urllib.parse.quote(os.fsencode(place.replace(os.sep, "/")))
        about["linked_name"] = pathlib.Path(audio_file).name
    template = importlib.resources.files("mfl_jax.inference").joinpath("page.html").read_text(encoding="utf-8")
    parts = {
        "TITLE": html.escape(prediction.recording),
        # A page in a folder takes its sound from that folder; under file: a browser has no other name for it.
        "MEDIA": "'self' file:" if linked else "blob:",
        "SPECTROGRAM": _png(log_mel),
        "DATA": _json(about),
    }
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            storage.atomic_path(out_html) as part,
            part.open("w", encoding="utf-8", errors="replace") as out,
        ):
            sound = os.path.join(folder, "sound")
            media = None if linked else _encode(audio_file, prediction.duration_s, sound)
            # Cut once, at the marks of the template: what is put in is never searched for marks.
            for number, part in enumerate(re.split(r"@@([A-Z]+)@@", template)):
                if number % 2 == 0:
                    out.write(part)
                elif part != "SOUND":
                    out.write(parts[part])
                elif media:
                    out.write(f"data:{media};base64,")
                    out.writelines(_base64_of(sound))
    except soundfile.LibsndfileError as error:
        raise InputError(f"{out_html}: libsndfile can't write its sound ({error.error_string}); install soundfile anew") from None
    except OSError as error:
        raise InputError(f"{out_html}: can't be written ({error.strerror}); name another place") from None
