"""From a folder of recordings with label tracks to a trained model, corrected predictions, and the data of a second pass."""

import json

import pytest
import soundfile

from mfl_jax import main
from mfl_jax.data import prepared_dataset
from mfl_jax.errors import InputError
from support import frame_network, small
from support.import_command import run_import
from support.predict_command import list_files, run_predict

pytestmark = [pytest.mark.ci_only, pytest.mark.lightly_optimised]

LOW, HIGH, UNKNOWN = "0.25\t1.25\tlow\n", "0.5\t2.0\thigh\n", "\t\t?\n"
TRACKS = {"busy/site{}_b": UNKNOWN, "calm/site{}_a": LOW, "calm/site{}_d": "", "site{}_c": HIGH}
"""Per site: a scene alone, both tasks, a scene and no events, and events alone (the top folder names no scene)."""
NEW = ("busy/site1_new", "site2_new")
"""Recordings without a track."""
HEADER = "path\tscene_label\tevent_start_time\tevent_end_time\tevent_label\tgroup"


def write_tracks(root):
    """Writes the recordings of three sites, and the two without a track; all 2.6 s long."""
    tracks = {name.format(site): track for site in range(3) for name, track in TRACKS.items()}
    for number, name in enumerate([*tracks, *NEW]):
        file = root / f"{name}.wav"
        file.parent.mkdir(parents=True, exist_ok=True)
        wave = frame_network.tones(("low", 0.25, 1.25, 0.3), ("high", 0.5, 2.0, 0.3), duration_s=2.6)
        soundfile.write(file, wave + frame_network.noise(len(wave), number), small.RATE)
        if name in tracks:
            file.with_suffix(".txt").write_text(tracks[name])


def list_rows(*sites):
    """The rows of the first label lists for some sites, by hand."""
    rows = []
    for site in sites:
        rows.append(f"audio/busy/site{site}_b.wav\tbusy\t\t\t?\tsite{site}")
        rows.append(f"audio/calm/site{site}_a.wav\tcalm\t0.25\t1.25\tlow\tsite{site}")
        rows.append(f"audio/calm/site{site}_d.wav\tcalm\t\t\t\tsite{site}")
        rows.append(f"audio/site{site}_c.wav\t\t0.5\t2.0\thigh\tsite{site}")
    return sorted(rows)


def test_label_tracks_train_a_model_and_its_corrected_predictions_the_next(tmp_path, capfd):
    tracks, data, out, corrected = (tmp_path / name for name in ("tracks", "DIR", "out", "corrected"))
    write_tracks(tracks)

    group = r"--group=pattern:^(site\d)_"

    # Import. All sites are alike, so the first one is a third of every class.
    assert run_import(tracks, f"--out={data}", "--split=0.67", group, "--scene=folder") == 0
    printed, warnings = capfd.readouterr()
    assert "all: 12 recordings, 0.5 minutes, 3 groups; scene not annotated in 3; events not annotated in 3" in printed
    assert f"2 recordings in {tracks} have no labels and are left out: busy/site1_new.wav, site2_new.wav" in warnings
    development, evaluation = (data / f"meta/meta_{split}.txt" for split in ("development", "evaluation"))
    assert development.read_text().splitlines() == [HEADER, *list_rows(1, 2)]
    assert evaluation.read_text().splitlines() == [HEADER, *list_rows(0)]

    # Train: three clips a recording, eight recordings, six of them with a scene and six with events.
    config = small.small_config(tmp_path, epochs=1, dataset="annotated_audio/mine", manual_dir=str(data))
    assert main.run(config, tmp_path / "run", "train") == 0
    printed, warnings = capfd.readouterr()
    assert "24 clips to train on (18 for scenes, 18 for events)" in printed
    assert "development: events are not annotated in 2 of 8 recordings" in warnings
    results = json.loads((tmp_path / "run/results.json").read_text())
    assert [results[key] for key in ("clips", "scene_clips", "event_clips")] == [12, 9, 9]

    # Predict what has no events yet. Every frame reaches this threshold, so that there is one event of each class.
    (tmp_path / "rules.json").write_text(json.dumps({"rules": {label: {"threshold": 1e-6} for label in ("low", "high")}}))
    flags = ["--write=events,json,audacity", "--page", "--clips=1", f"--postprocess={tmp_path / 'rules.json'}"]
    unlabelled = [tracks / f"{name}.wav" for name in (*NEW, "busy/site1_b")]
    assert run_predict(out, f"--checkpoint={tmp_path / 'run'}", *flags, *unlabelled) == 0
    names = [file.stem for file in unlabelled]
    files = {*(f"audacity/{name}.txt" for name in names), *(f"pages/{name}.html" for name in names), "index.html"}
    files |= {f"clips/{label}/{choice}_001.wav" for label in ("low", "high") for choice in ("highest", "lowest")}
    assert files <= set(list_files(out))
    assert all(f'href="pages/{name}.html"' in (out / "index.html").read_text() for name in names)
    for name in names:
        rows = (out / f"audacity/{name}.txt").read_text().splitlines()
        assert sorted(rows) == ["0.000000\t2.600000\thigh", "0.000000\t2.600000\tlow"]

    # Correct: the row of one class deleted and of the other moved, a class renamed, and a recording without events.
    def correct(name, *changes):
        text = (out / f"audacity/{name}.txt").read_text()
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        (corrected / f"{name}.txt").write_text(text)

    corrected.mkdir()
    high, low = "0.000000\t2.600000\thigh\n", "0.000000\t2.600000\tlow\n"
    correct("site1_new", (high, ""), (low, "0.500000\t1.250000\tlow\n"))
    correct("site2_new", ("low", "bird"))
    correct("site1_b", (high, ""), (low, ""))

    # Import together with the first list. The scene of site1_b is kept; the tracks name none for the new recordings.
    capfd.readouterr()
    assert run_import(development, corrected, f"--recordings={tracks}", f"--out={data}", group) == 0
    assert "labels of 1 recordings are replaced by those of a later source: busy/site1_b.wav" in capfd.readouterr().err
    (data / "meta/meta_all.txt").replace(development)
    first = list_rows(1, 2)
    assert sorted(development.read_text().splitlines()) == sorted(
        [
            HEADER,
            *first[1:],
            "audio/busy/site1_b.wav\tbusy\t\t\t\tsite1",
            "audio/busy/site1_new.wav\t\t0.5\t1.25\tlow\tsite1",
            "audio/site2_new.wav\t\t0.0\t2.6\tbird\tsite2",
            "audio/site2_new.wav\t\t0.0\t2.6\thigh\tsite2",
        ]
    )

    # The data set is that of the first list. Under another name, the second list is prepared.
    with pytest.raises(InputError, match=r"meta_development\.txt, where the events of audio/busy/site1_b\.wav are now annotated"):
        main.run(config, tmp_path / "run", "prepare")
    config.dataset = "annotated_audio/mine2"
    assert main.run(config, tmp_path / "run2", "prepare") == 0
    assert "bird" in capfd.readouterr().err  # which only the list to train on has
    clips = prepared_dataset.open_dataset(config.dataset, tmp_path / "data").read("development", min_clip_share=0.1)
    assert (len(clips), clips.scene_mask.sum(), clips.event_mask.sum()) == (30, 18, 27)
