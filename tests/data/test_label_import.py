"""Labels of other programs: which recordings they belong to, and the label lists they become."""

import pathlib

import numpy as np
import pytest
import soundfile

from mfl_jax.data import label_counts, label_import, label_list
from mfl_jax.data.annotation import Event, Recording
from mfl_jax.data.event_list import Wanted
from mfl_jax.errors import InputError

RATE = 1000


def write_audio(file, seconds):
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, np.zeros(round(seconds * RATE)), RATE)


def write_text(file, text):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def find(source, root=None, **columns):
    return label_import.find_labelled([source], root or source, Wanted(columns))


def test_a_folder_of_label_tracks_beside_their_recordings(tmp_path):
    for name, seconds in (("a/1.wav", 2.0), ("a/2.wav", 3.0), ("b/1.wav", 1.0)):
        write_audio(tmp_path / name, seconds)
    write_text(tmp_path / "a/1.txt", "0.5\t1.5\tcar\n")
    write_text(tmp_path / "b/1.txt", "")
    write_text(tmp_path / "b/9.txt", "0\t1\thorn\n")
    found = find(tmp_path)
    assert found.recordings == [Recording("a/1.wav", "", (Event(0.5, 1.5, "car", 1),)), Recording("b/1.wav", "", ())]
    assert found.seconds == {"a/1.wav": 2.0, "b/1.wav": 1.0}
    assert (found.without_labels, found.without_recording) == (["a/2.wav"], ["b/9"])


def test_a_table_with_named_columns_and_recordings_elsewhere(tmp_path):
    write_audio(tmp_path / "audio/day1/x.wav", 1.0)
    write_text(tmp_path / "labels.csv", "filename,start,end,class,site\nx.wav,0,0.5,dog,yard\n")
    columns = {"recording": "filename", "onset": "start", "offset": "end", "label": "class", "group": "site"}
    (recording,) = find(tmp_path / "labels.csv", tmp_path / "audio", **columns).recordings
    assert recording == Recording("day1/x.wav", "", (Event(0.0, 0.5, "dog", 2),), "yard")


def test_wrong_folders_names_and_files_are_refused_in_one_line(tmp_path):
    write_text(tmp_path / "labels/1.txt", "0\t1\tcar\n")
    with pytest.raises(InputError, match=r"labels: no recording in this folder; name .* by --recordings=DIR"):
        find(tmp_path / "labels")
    write_audio(tmp_path / "audio/2.wav", 1.0)
    with pytest.raises(InputError, match=r"labels: none of its 1 recordings is in .*audio, '1' for one; name"):
        find(tmp_path / "labels", tmp_path / "audio")
    for folder in "ab":
        write_audio(tmp_path / f"audio/{folder}/1.wav", 1.0)
    with pytest.raises(InputError, match=r"the labelled recording '1' matches both 'a/1\.wav' and 'b/1\.wav'"):
        find(tmp_path / "labels", tmp_path / "audio")
    write_text(tmp_path / "bad/1.txt", "0\t1\tcar\n")
    write_text(tmp_path / "bad/1.wav", "no audio")
    with pytest.raises(InputError, match=r"bad/1\.wav: .*") as refusal:
        find(tmp_path / "bad")
    assert "\n" not in str(refusal.value)
    write_audio(tmp_path / "odd" / "a\\b.wav", 1.0)
    write_text(tmp_path / "odd/1.txt", "0\t1\tcar\n")
    with pytest.raises(InputError, match=r"odd: 1 names hold a backslash.*; rename 'a\\\\b\.wav'"):
        find(tmp_path / "odd")


NAMED = [Recording(path, "", ()) for path in ("home/K1_02.wav", "home/K2_01.wav", "street/K1_03.wav")]


@pytest.mark.parametrize(
    "rule, groups",
    [
        ("folder", ["home", "home", "street"]),
        (r"pattern:^K\d", ["K1", "K2", "K1"]),
        (r"pattern:^K(\d)_", ["1", "2", "1"]),
        ("column:site", ["", "", ""]),
    ],
)
def test_groups_come_from_names(rule, groups):
    assert [recording.group for recording in label_import.name_recordings(NAMED, "group", rule)] == groups


def test_scenes_come_from_folders():
    assert [r.scene for r in label_import.name_recordings(NAMED, "scene", "folder")] == ["home", "home", "street"]
    with pytest.raises(InputError, match="the labels name scenes already; leave out --scene"):
        label_import.name_recordings([Recording("a/b.wav", "home", ())], "scene", "folder")


@pytest.mark.parametrize(
    "rule, message",
    [
        ("site", "--group=site: must be folder, pattern:REGEX or column:NAME"),
        ("column:", "--group=column:: must be folder"),
        ("pattern:(", r"--group=pattern:\(: not a regular expression \(missing \)"),
        ("pattern:^K1", r"does not match 1 of 3 file names: home/K2_01\.wav"),
    ],
)
def test_wrong_rules_are_refused(rule, message):
    with pytest.raises(InputError, match=message):
        label_import.name_recordings(NAMED, "group", rule)


def test_folders_as_groups_need_folders():
    with pytest.raises(InputError, match="gives no group; all recordings are in one folder"):
        label_import.name_recordings([Recording("a.wav", "", ())], "group", "folder")


LABELLED = [
    Recording("1.wav", "home", (Event(0.5, 1.25, '"big" dog'), Event(1.0, 1.0, "car")), "yard"),
    Recording("2.wav", "", (), "yard"),
    Recording("3.wav", "home", (), events_annotated=False),
]


def drop_rows(recordings):
    return [
        Recording(r.path, r.scene, tuple(Event(e.onset_s, e.offset_s, e.label) for e in r.events), r.group, r.events_annotated)
        for r in recordings
    ]


def test_later_labels_correct_what_they_annotate(tmp_path):
    """A track names no scene, and `?` no events: both stay as they were. Labels that are the same are not corrected."""
    for name in "abcd":
        write_audio(tmp_path / f"audio/{name}.wav", 3.0)
    rows = ["a.wav\tpark\t0.5\t1.5\tcar\tyard", "b.wav\tpark\t\t\t?\t", "c.wav\t\t0\t1\tcar\t", "d.wav\tpark\t0\t1\tcar\t"]
    header = "\t".join([*label_list.COLUMNS, "group"])
    write_text(tmp_path / "meta/meta_development.txt", "\n".join([header, *rows]) + "\n")
    for name, track in (("a", "1.0\t2.0\thorn\n"), ("b", ""), ("c", "\t\t?\n"), ("d", "0.0\t1.0\tcar\n"), ("lost", "")):
        write_text(tmp_path / f"corrected/{name}.txt", track)
    found = label_import.find_labelled(
        [tmp_path / "meta/meta_development.txt", tmp_path / "corrected"], tmp_path / "audio", Wanted()
    )
    assert drop_rows(found.recordings) == [
        Recording("a.wav", "park", (Event(1.0, 2.0, "horn"),), "yard"),
        Recording("b.wav", "park", ()),
        Recording("c.wav", "", (Event(0.0, 1.0, "car"),)),
        Recording("d.wav", "park", (Event(0.0, 1.0, "car"),)),
    ]
    assert found.corrected == ["a.wav", "b.wav"] and found.without_recording == ["lost"]


def test_a_source_without_recordings_is_refused_by_name(tmp_path):
    write_audio(tmp_path / "audio/a.wav", 1.0)
    write_text(tmp_path / "first/a.txt", "0\t1\tcar\n")
    write_text(tmp_path / "second/x.txt", "0\t1\tcar\n")
    with pytest.raises(InputError, match=r"second: none of its 1 recordings is in .*audio, 'x' for one"):
        label_import.find_labelled([tmp_path / "first", tmp_path / "second"], tmp_path / "audio", Wanted())


def test_label_lists_are_read_back(tmp_path):
    """Also through the link to recordings elsewhere; the same call again changes nothing."""
    (tmp_path / "sound").mkdir()
    (tmp_path / "sound/1.wav").touch()
    for _ in range(2):
        files = label_import.write_label_lists(tmp_path / "out", tmp_path / "sound", {"development": LABELLED, "evaluation": []})
    assert [file.name for file in files] == ["meta_development.txt", "meta_evaluation.txt"]
    got = label_list.read_label_list(files[0], root=tmp_path / "out")
    assert drop_rows(got) == [Recording(f"audio/{r.path}", r.scene, r.events, r.group, r.events_annotated) for r in LABELLED]
    assert (tmp_path / "out/audio/1.wav").is_file()
    inside = label_import.write_label_lists(tmp_path, tmp_path / "sound", {"all": LABELLED[1:2]})
    assert inside == [tmp_path / "meta/meta_all.txt"] and not (tmp_path / "audio").exists()
    (recording,) = label_list.read_label_list(inside[0])
    assert recording.path == "sound/2.wav"


@pytest.mark.parametrize("other", ["meta/meta_evaluation.txt", "audio"])
def test_other_files_are_not_overwritten(tmp_path, other):
    write_text(tmp_path / "out" / other, "mine")
    with pytest.raises(
        InputError, match=rf"{other}: exists with other content and is not overwritten; delete it, or name another"
    ):
        label_import.write_label_lists(tmp_path / "out", tmp_path / "sound", {"development": LABELLED, "evaluation": LABELLED})
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [tmp_path / "out" / other]


@pytest.mark.parametrize("failing", ["evaluation.txt.part", "development.txt.part", "audio"])
def test_all_lists_are_written_or_none(tmp_path, monkeypatch, failing):
    """The disk is full at one list, or the link can't be made."""

    def fail_at(original):
        def write(self, *arguments, **keywords):
            if failing in self.name:
                raise OSError(28, "No space left on device")
            return original(self, *arguments, **keywords)

        return write

    for method in ("write_text", "symlink_to"):
        monkeypatch.setattr(pathlib.Path, method, fail_at(getattr(pathlib.Path, method)))
    with pytest.raises(InputError, match=r"out: can't be written \(No space left on device\)"):
        label_import.write_label_lists(tmp_path / "out", tmp_path / "sound", {"development": LABELLED, "evaluation": LABELLED})
    assert sorted((tmp_path / "out").rglob("*")) == [tmp_path / "out/meta"]


def test_counts_by_hand():
    """Two recordings of 60 and 120 s at home; a dog for 0.75 s, a car for none."""
    assert label_counts.count_scenes(LABELLED, {"1.wav": 60.0, "2.wav": 5.0, "3.wav": 120.0}) == {"home": (2, None, 3.0)}
    assert label_counts.count_events(LABELLED) == {'"big" dog': (1, 1, 0.0125), "car": (1, 1, 0.0)}
