"""The command that imports labels: its tables, warnings and files."""

import numpy as np
import pytest
import soundfile

from mfl_jax import import_labels
from mfl_jax.data import label_list
from mfl_jax.errors import InputError
from support.import_command import run_import as call


@pytest.fixture
def tracks(tmp_path):
    """Ten recordings of 6 s with Audacity label tracks, in five folders; one without labels, and labels without a recording."""
    for n in range(10):
        folder = tmp_path / "tracks" / f"site{n // 2}"
        folder.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / f"{n}.wav", np.zeros(6000), 1000)
        (folder / f"{n}.txt").write_text("1.0\t2.5\tcar\n")
    (tmp_path / "tracks/site0/lost.txt").write_text("0\t1\tcar\n")
    soundfile.write(tmp_path / "tracks/site0/silent.wav", np.zeros(1000), 1000)
    return tmp_path / "tracks"


def test_label_tracks_become_two_label_lists(tracks, capsys):
    for _ in range(2):  # the second time over its own lists
        assert call(tracks, f"--out={tracks}", "--split=0.8", "--group=folder") == 0
    printed, warnings = capsys.readouterr()
    assert "all: 10 recordings, 1.0 minutes, 5 groups" in printed
    assert "evaluation: 2 recordings, 0.2 minutes, 1 groups" in printed
    (row,) = {line for line in printed.splitlines() if " car " in line}
    assert row.replace("│", " ").split() == ["car", "10", "10", "0.2", "8", "(80", "%)", "2", "(20", "%)"]
    assert "1 recordings in " in warnings and "have no labels and are left out: site0/silent.wav" in warnings
    assert "labels of 1 recordings are left out, because" in warnings and "no such recording: site0/lost" in warnings
    listed = {name: label_list.read_label_list(tracks / f"meta/meta_{name}.txt", root=tracks) for name in import_labels.SPLITS}
    assert [(r.path, r.group) for r in listed["evaluation"]] == [("site0/0.wav", "site0"), ("site0/1.wav", "site0")]
    assert len(listed["development"]) == 8 and all(len(recording.events) == 1 for recording in listed["development"])


def test_without_a_split_there_is_one_list_and_without_out_none(tracks, capsys):
    assert call(tracks) == 0
    assert not (tracks / "meta").exists() and "written" not in capsys.readouterr().out
    assert call(tracks, f"--out={tracks}", "--scene=folder") == 0
    listed = label_list.read_label_list(tracks / "meta/meta_all.txt")
    assert [recording.scene for recording in listed[:3]] == ["site0", "site0", "site1"]
    # That list can be split later.
    assert call(tracks / "meta/meta_all.txt", f"--out={tracks}", "--split=0.5") == 0
    assert (tracks / "meta/meta_evaluation.txt").is_file()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((), "name a list or a folder of labels; of several, later ones correct earlier ones"),
        (("a", "--split=1"), "--split=1: must be above 0 and below 1"),
        (("a", "--columns=start,end"), "--columns=start,end: must be three or four names"),
        (("a", "--group=location"), "--group=location: must be folder, pattern:REGEX or column:NAME"),
        (("none",), "none: no such event list"),
    ],
)
def test_wrong_arguments_are_refused_in_one_line(arguments, message):
    with pytest.raises(InputError, match=message) as refusal:
        call(*arguments)
    assert "\n" not in str(refusal.value)


def test_nothing_is_written_if_a_row_is_wrong(tracks):
    (tracks / "site1/2.txt").write_text("1.0\t2.5\tcar\n3.0\t2.0\tcar\n")
    with pytest.raises(InputError, match=r"site1/2\.txt, row 2: 'car' ends at 2 s, before it starts at 3 s"):
        call(tracks, f"--out={tracks}")
    assert not (tracks / "meta").exists()
