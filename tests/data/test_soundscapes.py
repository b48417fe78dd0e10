"""The synthetic soundscapes."""

import itertools
import sys

import numpy as np
import pytest

from mfl_jax.data import label_list, prepare


@pytest.fixture(scope="module")
def synthesis():
    prepare.load_builder("soundscapes")
    return sys.modules["mfl_jax.builders.soundscapes.synthesis"]


def test_soundscapes_are_seeded_and_their_events_overlap(synthesis, tmp_path, monkeypatch):
    monkeypatch.setattr(synthesis, "RECORDING_S", (4.0, 8.0))  # a third of the usual length
    assert len(synthesis.SCENES) >= 4 and len(synthesis.EVENTS) >= 10
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        synthesis.render(tmp_path / name, {"development": 2, "evaluation": 1}, seed=seed)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 12 + 2 and [path.name for path in tmp_path.iterdir() if "part" in path.name] == []
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "same" / file).read_bytes() for file in files)
    assert any((tmp_path / "one" / file).read_bytes() != (tmp_path / "other" / file).read_bytes() for file in files)
    listed = label_list.read_label_list(tmp_path / "one" / "meta" / "meta_development.txt", events=synthesis.EVENTS)
    assert sorted(recording.scene for recording in listed) == sorted(list(synthesis.SCENES) * 2)
    overlaps = 0
    for recording in listed:
        spans = sorted((event.onset_s, event.offset_s) for event in recording.events)
        overlaps += sum(earlier[1] > later[0] for earlier, later in itertools.pairwise(spans))
    assert overlaps > 0


@pytest.mark.parametrize("split", ["development", "evaluation"])
def test_every_sound_is_finite_and_audible(synthesis, split):
    for label, sound in synthesis.SOUNDS.items():
        draw = synthesis.Draw(np.random.default_rng(0), split)
        samples = int(draw.uniform(*sound.seconds) * synthesis.RATE)
        waveform = sound.synthesise(draw, samples)
        assert waveform.shape == (samples,) and np.isfinite(waveform).all() and np.std(waveform) > 0, label


def test_evaluation_draws_other_sounds_than_development(synthesis):
    """Parameters come from bands that alternate between the splits, over the same range."""
    bands = {}
    for split in ("development", "evaluation"):
        draw = synthesis.Draw(np.random.default_rng(0), split)
        positions = np.array([np.log(draw(100, 1000) / 100) / np.log(10) for _ in range(2000)])
        bands[split] = set(np.floor(positions * synthesis.BANDS - 1e-9).astype(int))
    assert bands == {"development": {0, 2, 4, 6, 8}, "evaluation": {1, 3, 5, 7}}


def test_quick_and_full_differ_only_in_size():
    configs = {config.name: config for config in prepare.load_builder("soundscapes").Builder.BUILDER_CONFIGS}
    quick, full = configs["quick"], configs["full"]
    assert (quick.mel, quick.clip_s, quick.seed) == (full.mel, full.clip_s, full.seed)
    assert quick.development < full.development and quick.evaluation < full.evaluation
