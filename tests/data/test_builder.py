"""The builders of the paper's data and of the soundscapes."""

import itertools
import pathlib

import numpy as np
import pytest
import soundfile

from mfl_jax.data import annotation, clip_cutting, label_list, mel_spectrogram, prepare, prepared_dataset
from mfl_jax.errors import InputError
from mfl_jax.scoring import floor_scores
from support.small import clips_of

HEADER = "path\tscene_label\tevent_start_time\tevent_end_time\tevent_label\n"


def in_memory(**arrays) -> prepared_dataset.Clips:
    """Clips of given arrays, as if they came from a prepared data set."""

    class Source:
        def __len__(self):
            return len(arrays["scene"])

        def __getitems__(self, numbers):
            place = {"fold": 0, "recording": "a.wav", "clip_start_s": 0.0}
            return [{key: value[number] for key, value in arrays.items()} | place for number in numbers]

    return prepared_dataset.Clips(Source())


def tut_tree(root: pathlib.Path) -> pathlib.Path:
    """Four development recordings, one a fold, and one for evaluation, in the layout of the TUT data."""
    rows = {}
    for number in range(5):
        path = f"TUT-sound-events-2016-development/audio/home/a00{number}.wav"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        noise = 0.01 * np.random.default_rng(number).standard_normal((44_100 * 11, 2))
        soundfile.write(root / path, noise, 44_100, subtype="PCM_24")
        rows[number] = f"{path}\thome\t0.5\t1.25\twater tap running\n{path}\thome\t1.0\t1.0\tdishes\n"
    for folder, splits in (("meta", {"development": range(4), "evaluation": [4]}),):
        (root / folder).mkdir()
        for split, numbers in splits.items():
            (root / folder / f"meta_{split}.txt").write_text(HEADER + "".join(rows[n] for n in numbers))
    (root / "crossvaridation").mkdir()
    for fold in range(1, 5):
        held_out = fold - 1
        for split, numbers in (("development", [n for n in range(4) if n != held_out]), ("evaluation", [held_out])):
            (root / "crossvaridation" / f"meta_fold{fold:02d}_{split}.txt").write_text(HEADER + "".join(rows[n] for n in numbers))
    return root


@pytest.fixture(scope="module")
def tut(tmp_path_factory):
    return tut_tree(tmp_path_factory.mktemp("tut"))


def test_the_papers_data_set_is_built_with_its_vocabulary_and_folds(tut, tmp_path):
    dataset = prepare.prepare("tut_scenes_events", data_dir=tmp_path, manual_dir=tut)
    assert len(dataset.scenes) == 4 and len(dataset.events) == 25 and dataset.clip_frames == 500
    assert dataset.clips == {"development": 8, "evaluation": 2}  # 11 s: a whole clip, and one of a second
    clips_ = dataset.read("development")
    assert sorted(clips_.fold) == [1, 1, 2, 2, 3, 3, 4, 4]
    taken = clips_.take(np.arange(8))
    assert sorted(set(taken["valid_frames"])) == [50, 500]
    whole = taken["valid_frames"] == 500
    running, dishes = (dataset.events.index(label) for label in ("water tap running", "dishes"))
    assert (np.flatnonzero(taken["events"][whole][0][:, running]) == np.arange(25, 63)).all()
    assert np.flatnonzero(taken["events"][whole][0][:, dishes]).tolist() == [50]  # of zero length


def test_a_fold_holds_its_recordings_out(tut, tmp_path):
    dataset = prepare.prepare("tut_scenes_events/fold3", data_dir=tmp_path, manual_dir=tut)
    assert dataset.clips == {"development": 6, "evaluation": 2}
    assert sorted(set(dataset.read("development").fold)) == [1, 2, 4]


def test_a_missing_tut_recording_is_named_and_counted(tut, tmp_path):
    builder = prepare.load_builder("tut_scenes_events").Builder
    made = builder(config=builder.make_config("full"), data_dir=tmp_path, manual_dir=tut)
    (tut / "moved.wav").unlink(missing_ok=True)
    target = tut / made.recordings["development"][2].path
    target.rename(tut / "moved.wav")
    try:
        with pytest.raises(InputError, match=r"1 of 4 recordings are missing below .*a002\.wav"):
            prepare.prepare("tut_scenes_events/full", data_dir=tmp_path, manual_dir=tut)
    finally:
        (tut / "moved.wav").rename(target)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("object impact", "(object) impact"),
        ("people speaking", "people talking"),
        ("water tap running ", "water tap running"),
        (" (object) rustling", "(object) rustling"),
    ],
)
def test_labels_of_older_copies_of_the_list_are_known(tmp_path, old, new):
    module = prepare.load_builder("tut_scenes_events")
    (tmp_path / "list.txt").write_text(HEADER + f"a.wav\thome\t0\t1\t{old}\n")
    read = label_list.read_label_list(
        tmp_path / "list.txt", scenes=module.SCENES, events=module.EVENTS, renamed=module.RENAMED_EVENTS
    )
    assert read[0].events[0].label == new


def test_an_unknown_label_is_named_with_its_row(tmp_path):
    module = prepare.load_builder("tut_scenes_events")
    (tmp_path / "list.txt").write_text(HEADER + "a.wav\thome\t0\t1\tcar\na.wav\thome\t0\t1\tbird singin\n")
    with pytest.raises(InputError, match=r"list.txt, row 3: unknown event 'bird singin'; did you mean 'bird singing'\?"):
        label_list.read_label_list(tmp_path / "list.txt", events=module.EVENTS)


def test_the_published_lists_are_read_whole(shared_dir):
    """All labels known, folds that partition the development recordings, and nothing in both splits."""
    module = prepare.load_builder("tut_scenes_events")
    builder = module.Builder(
        config=module.Builder.make_config("full"), data_dir="unused", manual_dir=shared_dir / "datasets" / "sed_asc_metadata"
    )
    recordings = builder.recordings
    assert {split: len(of_split) for split, of_split in recordings.items()} == {"development": 112, "evaluation": 136}
    folds = builder.assign_folds(recordings["development"])
    assert set(folds) == {recording.path for recording in recordings["development"]} and set(folds.values()) == {1, 2, 3, 4}


def test_floors_of_the_published_evaluation_labels(shared_dir):
    """Known figures: 32.95 % for the majority scene, 38.93 % for `fan` in the office alone. Without the audio, the length of a
    scene recording is known (30 s, or 10 s in 2017) and that of an event recording is taken from its last event."""
    module = prepare.load_builder("tut_scenes_events")
    listed = label_list.read_label_list(shared_dir / "datasets" / "sed_asc_metadata" / "meta" / "meta_evaluation.txt")
    arrays = {"events": [], "scene": [], "valid_frames": []}
    for recording in listed:
        end_s = max(event.offset_s for event in recording.events)
        if "acoustic-scenes" in recording.path:
            end_s = 10.0 if "2017" in recording.path else 30.0
        for start in range(0, int(np.ceil(end_s * 50 - 1e-9)), 500):
            arrays["events"].append(
                annotation.events_to_frames(
                    recording.events, module.EVENTS, 500, first_frame=start, hop_samples=882, sample_rate_hz=44_100
                )
            )
            arrays["scene"].append(module.SCENES.index(recording.scene))
            arrays["valid_frames"].append(min(500, int(np.ceil(end_s * 50 - 1e-9)) - start))
    arrays = {key: np.array(value) for key, value in arrays.items()}
    clips_ = in_memory(log_mel=np.zeros((len(arrays["scene"]), 500, 1), np.float32), **arrays)
    floors = floor_scores.compute_floors(clips_, np.arange(len(clips_)), module.SCENES, module.EVENTS)
    assert floors["scene"]["majority"]["micro_f"] == pytest.approx(32.95, abs=0.005)
    assert floors["event"]["oracle_scene"]["detected"] == {"office": ["fan"]}
    assert floors["event"]["oracle_scene"]["micro_f"] == pytest.approx(38.93, abs=0.005)


def test_the_real_excerpt_whose_annotation_runs_past_its_end(shared_dir, tmp_path):
    excerpt = shared_dir / "audio_formats" / "tut_excerpt" / "TUT-sound-events-2017-development"
    rows = [line.split("\t") for line in (excerpt / "meta" / "street" / "a001.ann").read_text().splitlines()]
    events = tuple(annotation.Event(float(row[2]), float(row[3]), row[4], n) for n, row in enumerate(rows, 1))
    labels = sorted({event.label for event in events})
    notes, mel = clip_cutting.Anomalies(), mel_spectrogram.MelConfig()
    recording = annotation.Recording("audio/street/a001.wav", "city_center", events)
    made = clips_of([recording], excerpt, tmp_path, events=labels, mel=mel, clip_frames=500, notes=notes, jobs=1)
    frames = sum(example["valid_frames"] for example in made.values())
    assert frames == mel.frames(soundfile.info(excerpt / recording.path).frames)
    assert notes.past_end or notes.after_end


@pytest.fixture(scope="module")
def soundscapes():
    prepare.load_builder("soundscapes")
    import sys

    return sys.modules["_mfl_jax_datasets_soundscapes.synthesis"]


def test_soundscapes_are_many_overlapping_and_seeded(soundscapes, tmp_path):
    assert len(soundscapes.SCENES) >= 4 and len(soundscapes.EVENTS) >= 10
    amount = {"development": 2, "evaluation": 1}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        soundscapes.render(tmp_path / name, amount, seed=seed)
    files = sorted(path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 12 + 2 and [path.name for path in tmp_path.iterdir() if "part" in path.name] == []
    assert all((tmp_path / "one" / file).read_bytes() == (tmp_path / "same" / file).read_bytes() for file in files)
    assert any((tmp_path / "one" / file).read_bytes() != (tmp_path / "other" / file).read_bytes() for file in files)
    listed = label_list.read_label_list(tmp_path / "one" / "meta" / "meta_development.txt", events=soundscapes.EVENTS)
    assert sorted(recording.scene for recording in listed) == sorted(list(soundscapes.SCENES) * 2)
    overlaps = 0
    for recording in listed:
        spans = sorted((event.onset_s, event.offset_s) for event in recording.events)
        overlaps += sum(a[1] > b[0] for a, b in itertools.pairwise(spans))
    assert overlaps > 0


@pytest.mark.parametrize("split", ["development", "evaluation"])
def test_every_sound_is_finite_and_audible(soundscapes, split):
    for label, sound in soundscapes.SOUNDS.items():
        draw = soundscapes.Draw(np.random.default_rng(0), split)
        samples = int(draw.free(*sound.seconds) * soundscapes.RATE)
        wave = sound.formula(draw, samples)
        assert wave.shape == (samples,) and np.isfinite(wave).all() and np.std(wave) > 0, label


def test_the_sounds_of_evaluation_are_held_out(soundscapes):
    """A parameter falls into bands that alternate between the splits, over the same range."""
    drawn = {}
    for split in ("development", "evaluation"):
        draw = soundscapes.Draw(np.random.default_rng(0), split)
        where = np.array([np.log(draw(100, 1000) / 100) / np.log(10) for _ in range(2000)])
        drawn[split] = set(np.floor(where * soundscapes.BANDS - 1e-9).astype(int))
    assert drawn == {"development": {0, 2, 4, 6, 8}, "evaluation": {1, 3, 5, 7}}


def test_quick_and_full_differ_in_size_alone():
    configs = {config.name: config for config in prepare.load_builder("soundscapes").Builder.BUILDER_CONFIGS}
    quick, full = configs["quick"], configs["full"]
    assert (quick.mel, quick.clip_s, quick.seed) == (full.mel, full.clip_s, full.seed)
    assert quick.development < full.development and quick.evaluation < full.evaluation


def test_floors_are_those_of_systems_that_do_not_listen():
    """Three clips of two scenes; event 0 is on in most frames of scene 0 alone."""
    events = np.zeros((3, 4, 2), bool)
    events[0, :3, 0] = True
    events[1, :1, 1] = True
    clips_ = in_memory(
        log_mel=np.zeros((3, 4, 1), np.float32), events=events, scene=np.array([0, 1, 1]), valid_frames=np.array([4, 4, 1])
    )
    floors = floor_scores.compute_floors(clips_, np.arange(3), ("a", "b"), ("x", "y"))
    assert floors["scene"]["majority"] == {"answer": "b", "micro_f": pytest.approx(200 / 3), "macro_f": pytest.approx(40)}
    event = floors["event"]
    assert event["all_off"]["micro_f"] == 0 and event["all_off"]["error_rate"] == 1
    assert event["always_on"]["micro_f"] == pytest.approx(100 * 2 * 4 / (2 * 4 + 14))  # 9 valid frames, 18 cells, 4 active
    assert event["oracle_scene"]["detected"] == {"a": ["x"]}
    assert event["oracle_scene"]["micro_f"] == pytest.approx(100 * 2 * 3 / (2 * 3 + 1 + 1))
