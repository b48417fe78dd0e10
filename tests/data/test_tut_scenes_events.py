"""The builder of the paper's data."""

import pathlib

import numpy as np
import pytest
import soundfile

from mfl_jax.data import label_list, prepare
from mfl_jax.errors import InputError
from support.small import HEADER


def write_tut_tree(root: pathlib.Path) -> pathlib.Path:
    """Writes four development recordings, one per fold, and one evaluation recording in the layout of the TUT data."""
    rows = {}
    for number in range(5):
        path = f"TUT-sound-events-2016-development/audio/home/a00{number}.wav"
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        noise = 0.01 * np.random.default_rng(number).standard_normal((44_100 * 11, 2))
        soundfile.write(root / path, noise, 44_100, subtype="PCM_24")
        rows[number] = f"{path}\thome\t0.5\t1.25\twater tap running\n{path}\thome\t1.0\t1.0\tdishes\n"
    lists = {"meta/meta_development": range(4), "meta/meta_evaluation": [4]}
    for fold in range(1, 5):
        lists[f"crossvaridation/meta_fold{fold:02d}_development"] = [number for number in range(4) if number != fold - 1]
        lists[f"crossvaridation/meta_fold{fold:02d}_evaluation"] = [fold - 1]
    for folder in ("meta", "crossvaridation"):
        (root / folder).mkdir()
    for name, numbers in lists.items():
        (root / f"{name}.txt").write_text(HEADER + "".join(rows[number] for number in numbers))
    return root


@pytest.fixture(scope="module")
def tut(tmp_path_factory):
    return write_tut_tree(tmp_path_factory.mktemp("tut"))


@pytest.fixture(scope="module")
def module():
    return prepare.load_builder("tut_scenes_events")


def test_the_papers_data_set_has_its_vocabulary_and_folds(tut, tmp_path):
    dataset = prepare.prepare("tut_scenes_events", data_dir=tmp_path, manual_dir=tut)
    assert len(dataset.scenes) == 4 and len(dataset.events) == 25 and dataset.clip_frames == 500
    assert dataset.clips == {"development": 8, "evaluation": 2}  # 11 s: a full clip, and a clip of one second
    clips = dataset.read("development")
    assert sorted(clips.fold) == [1, 1, 2, 2, 3, 3, 4, 4]
    batch = clips.take(np.arange(8))
    assert sorted(set(batch["valid_frames"])) == [50, 500]
    first_full_clip = batch["events"][batch["valid_frames"] == 500][0]
    running, dishes = (dataset.events.index(label) for label in ("water tap running", "dishes"))
    assert (np.flatnonzero(first_full_clip[:, running]) == np.arange(25, 63)).all()
    assert np.flatnonzero(first_full_clip[:, dishes]).tolist() == [50]  # an event of zero length


def test_a_fold_holds_out_its_recordings(tut, tmp_path):
    dataset = prepare.prepare("tut_scenes_events/fold3", data_dir=tmp_path, manual_dir=tut)
    assert dataset.clips == {"development": 6, "evaluation": 2}
    assert sorted(set(dataset.read("development").fold)) == [1, 2, 4]


def test_a_missing_recording_is_named_and_counted(tut, tmp_path):
    recording = tut / "TUT-sound-events-2016-development" / "audio" / "home" / "a002.wav"
    recording.rename(tut / "moved.wav")
    try:
        with pytest.raises(InputError, match=r"1 of 5 recordings are missing in .*a002\.wav"):
            prepare.prepare("tut_scenes_events/full", data_dir=tmp_path, manual_dir=tut)
    finally:
        (tut / "moved.wav").rename(recording)


@pytest.mark.parametrize(
    ("former", "current"),
    [
        ("object impact", "(object) impact"),
        ("people speaking", "people talking"),
        ("water tap running ", "water tap running"),
        (" (object) rustling", "(object) rustling"),
    ],
)
def test_labels_of_older_lists_are_known(module, tmp_path, former, current):
    (tmp_path / "list.txt").write_text(HEADER + f"a.wav\thome\t0\t1\t{former}\n")
    (recording,) = label_list.read_label_list(
        tmp_path / "list.txt", scenes=module.SCENES, events=module.EVENTS, renamed=module.RENAMED_EVENTS
    )
    assert recording.events[0].label == current


def test_an_unknown_label_is_named_with_its_row(module, tmp_path):
    (tmp_path / "list.txt").write_text(HEADER + "a.wav\thome\t0\t1\tcar\na.wav\thome\t0\t1\tbird singin\n")
    with pytest.raises(InputError, match=r"list.txt, row 3: unknown event 'bird singin'; did you mean 'bird singing'\?"):
        label_list.read_label_list(tmp_path / "list.txt", events=module.EVENTS)


def test_the_published_lists_are_accepted(module, shared_dir):
    """All labels are known, the folds partition the development recordings, and no recording is in both splits."""
    builder = module.Builder(
        config=module.Builder.make_config("full"), data_dir="unused", manual_dir=shared_dir / "datasets" / "sed_asc_metadata"
    )
    recordings = builder.recordings
    assert {split: len(listed) for split, listed in recordings.items()} == {"development": 112, "evaluation": 136}
    folds = builder.assign_folds(recordings["development"], {})
    assert set(folds) == {recording.path for recording in recordings["development"]} and set(folds.values()) == {1, 2, 3, 4}
