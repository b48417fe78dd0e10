"""Clips and their examples."""

import soundfile

from mfl_jax.data import annotation, clip_cutting, mel_spectrogram
from support.small import build_examples


def test_a_clip_survives_json():
    events = (annotation.Event(0.5, 1.0, "fan", 7),)
    clip = clip_cutting.Clip("a.wav", "a.f32", "home", 2, 100, 50, events, False)
    assert clip_cutting.Clip.from_row(clip.to_row()) == clip and clip.key == "a.wav@000000100"


def test_a_real_excerpt_whose_annotation_exceeds_its_length(shared_dir, tmp_path):
    excerpt = shared_dir / "audio_formats" / "tut_excerpt" / "TUT-sound-events-2017-development"
    rows = [line.split("\t") for line in (excerpt / "meta" / "street" / "a001.ann").read_text().splitlines()]
    events = tuple(annotation.Event(float(row[2]), float(row[3]), row[4], n) for n, row in enumerate(rows, 1))
    labels = sorted({event.label for event in events})
    anomalies, mel = clip_cutting.Anomalies(), mel_spectrogram.MelConfig()
    recording = annotation.Recording("audio/street/a001.wav", "city_center", events)
    examples = build_examples(
        [recording], excerpt, tmp_path, events=labels, mel=mel, clip_frames=500, anomalies=anomalies, jobs=1
    )
    frames = sum(example["valid_frames"] for example in examples.values())
    assert frames == mel.frames(soundfile.info(excerpt / recording.path).frames)
    assert anomalies.past_end or anomalies.after_end
