"""Label lists, well-formed and not, and events as frames against exact fractions."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from mfl_jax.data import annotation, label_list
from mfl_jax.data.annotation import Event, Recording
from mfl_jax.errors import InputError

HEADER = "path\tscene_label\tevent_start_time\tevent_end_time\tevent_label\n"
LIST = HEADER + "a.wav\thome\t0.5\t1.25\tdishes\nb/c.wav\toffice\t0\t2\tfan\na.wav\thome\t3\t3\tcutlery\n"
RECORDINGS = [
    Recording("a.wav", "home", (Event(0.5, 1.25, "dishes", 2), Event(3.0, 3.0, "cutlery", 4))),
    Recording("b/c.wav", "office", (Event(0.0, 2.0, "fan", 3),)),
]
SCENES, EVENTS = ("home", "office"), ("cutlery", "dishes", "fan", "water tap running")


def write(tmp_path, content):
    path = tmp_path / "list.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_list_gives_its_recordings_in_the_order_of_their_first_rows(tmp_path):
    assert label_list.read_label_list(write(tmp_path, LIST)) == RECORDINGS
    assert label_list.read_label_list(str(write(tmp_path, LIST)), scenes=SCENES, events=EVENTS) == RECORDINGS


@pytest.mark.parametrize(
    "change",
    [
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: text.rstrip("\n"),
        lambda text: b"\xef\xbb\xbf" + text.replace("\n", " \r\n").encode(),
        lambda text: text.replace("\t", " \t ").replace("\n", "  \n"),
    ],
    ids=["byte order mark", "CRLF", "CR", "no last line end", "mark, blanks, CRLF", "blanks around fields"],
)
def test_how_a_list_was_saved_makes_no_difference(tmp_path, change):
    assert label_list.read_label_list(write(tmp_path, change(LIST)), scenes=SCENES, events=EVENTS) == RECORDINGS


def test_blank_lines_are_skipped_and_counted(tmp_path):
    lines = LIST.splitlines(keepends=True)
    path = write(tmp_path, "".join(["\n", lines[0], "\n", lines[1], " \t\t\n", *lines[2:], "\n\n"]))
    got = label_list.read_label_list(path)
    assert [(r.path, r.scene) for r in got] == [("a.wav", "home"), ("b/c.wav", "office")]
    # Row numbers are those that an editor shows.
    assert [event.row for recording in got for event in recording.events] == [4, 7, 6]


def test_columns_may_stand_in_any_order_and_beside_others(tmp_path):
    rows = [line.split("\t") for line in LIST.splitlines()]
    mixed = "".join("\t".join([label, end, "note", scene, path, start]) + "\n" for path, scene, start, end, label in rows)
    assert label_list.read_label_list(write(tmp_path, mixed)) == RECORDINGS


def test_a_recording_without_events_is_a_row_of_empty_fields(tmp_path):
    got = label_list.read_label_list(write(tmp_path, HEADER + "quiet.wav\thome\t\t\t\na.wav\thome\t1\t2\tfan\n"), events=EVENTS)
    assert got == [Recording("quiet.wav", "home", ()), Recording("a.wav", "home", (Event(1.0, 2.0, "fan", 3),))]


def test_letters_of_all_scripts_and_quotes_are_plain_text(tmp_path):
    path = write(tmp_path, HEADER + "Küche/音 1.wav\tCafé\t0\t1\t\"door\" 'bang'\n")
    assert label_list.read_label_list(path) == [Recording("Küche/音 1.wav", "Café", (Event(0.0, 1.0, "\"door\" 'bang'", 2),))]


@pytest.mark.parametrize("path", ["b\\c.wav", "./b/c.wav", "b//c.wav"])
def test_spellings_of_one_path_are_one_recording(tmp_path, path):
    got = label_list.read_label_list(write(tmp_path, HEADER + f"{path}\thome\t0\t1\tfan\nb/c.wav\thome\t1\t2\tfan\n"))
    assert [(recording.path, len(recording.events)) for recording in got] == [("b/c.wav", 2)]


def refusal(path, **options):
    """The one line in which a label list is refused."""
    with pytest.raises(InputError) as refused:
        label_list.read_label_list(path, **options)
    message = str(refused.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


GOOD = "a.wav\thome\t0.5\t1.25\tdishes\n"


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a.wav\thome\t0,5\t1\tfan", ["event_start_time '0,5' is no number", "a point, not a comma"]),
        ("a.wav\thome\t0.5\t1,25\tfan", ["event_end_time '1,25' is no number", "a point, not a comma"]),
        ("a.wav\thome\tnoon\t1\tfan", ["event_start_time 'noon' is no number"]),
        ("a.wav\thome\t\t1\tfan", ["event_start_time '' is no number"]),
        ("a.wav\thome\t0\t\tfan", ["event_end_time '' is no number"]),
        ("a.wav\thome\t-0.5\t1\tfan", ["event_start_time '-0.5' is no time"]),
        ("a.wav\thome\tnan\t1\tfan", ["event_start_time 'nan' is no time"]),
        ("a.wav\thome\t0\tnan\tfan", ["event_end_time 'nan' is no time"]),
        ("a.wav\thome\t0\tinf\tfan", ["event_end_time 'inf' is no time"]),
        ("a.wav\thome\t2\t1.5\tfan", ["'fan' ends at 1.5 s, before it starts at 2 s"]),
        ("a.wav\thome\t0\t1\twater tap runing", ["unknown event 'water tap runing'", "did you mean 'water tap running'?"]),
        ("a.wav\thome\t0\t1\tFAN!", ["unknown event 'FAN!'", "known are: cutlery, dishes, fan, water tap running"]),
        ("a.wav\thome\t0\t1\t", ["no event_label"]),
        ("b.wav\thmoe\t0\t1\tfan", ["unknown scene 'hmoe'", "did you mean 'home'?"]),
        ("b.wav\t\t0\t1\tfan", ["no scene_label"]),
        ("a.wav\toffice\t0\t1\tfan", ["a.wav", "'office' here", "'home' in row 2"]),
        ("a.wav\toffice\t\t\t", ["a.wav", "'office' here", "'home' in row 2"]),
        ("a.wav\thome\t0\t1_0\tfan", ["event_end_time '1_0' is no number"]),
        (".\thome\t0\t1\tfan", ["'.' does not lie below"]),
        ("a.wav\thome\t0\t1", ["4 fields where the header has 5"]),
        ("a.wav\thome\t0\t1\tfan\t", ["6 fields where the header has 5"]),
        ("a.wav home 0 1 fan", ["1 fields where the header has 5"]),
        ("../a.wav\thome\t0\t1\tfan", ["'../a.wav'", "below the folder"]),
        ("b/../../a.wav\thome\t0\t1\tfan", ["'b/../../a.wav'", "below the folder"]),
        ("..\\a.wav\thome\t0\t1\tfan", ["below the folder"]),
        ("/data/a.wav\thome\t0\t1\tfan", ["'/data/a.wav'", "below the folder"]),
        ("\thome\t0\t1\tfan", ["''", "below the folder"]),
    ],
)
def test_a_row_that_makes_no_sense_is_refused_with_its_number_and_value(tmp_path, row, said):
    message = refusal(write(tmp_path, HEADER + GOOD + row + "\n" + GOOD), scenes=SCENES, events=EVENTS)
    assert message.startswith(f"{tmp_path / 'list.txt'}, row 3: ")
    for part in said:
        assert part in message


def test_the_row_number_counts_blank_lines(tmp_path):
    assert ", row 5: " in refusal(write(tmp_path, HEADER + "\n" + GOOD + "\na.wav\thome\t1\t0\tfan\n"))


@pytest.mark.parametrize("column", label_list.COLUMNS)
def test_a_missing_column_is_named(tmp_path, column):
    message = refusal(write(tmp_path, LIST.replace(column, "something")))
    assert f", row 1: no column '{column}'" in message and "'something'" in message


def test_a_list_without_its_header_is_refused(tmp_path):
    message = refusal(write(tmp_path, GOOD))
    assert "row 1: no column 'path', 'scene_label'" in message and "'dishes'" in message


def test_commas_instead_of_tabs_are_refused(tmp_path):
    assert "separated by tabs" in refusal(write(tmp_path, LIST.replace("\t", ",")))


@pytest.mark.parametrize("content", ["", "\n \n\t\t\n", b"\xef\xbb\xbf"], ids=["no byte", "blank lines", "byte order mark"])
def test_an_empty_list_is_refused(tmp_path, content):
    assert "the label list is empty; it needs the header" in refusal(write(tmp_path, content))


def test_a_column_that_occurs_twice_is_refused(tmp_path):
    content = HEADER.replace("scene_label", "scene_label\tscene_label") + "\na.wav\thome\toffice\t0\t1\tfan\n"
    assert "row 1: the column 'scene_label' occurs more than once" in refusal(write(tmp_path, content))


def test_a_header_without_rows_is_refused(tmp_path):
    assert "has a header and no row" in refusal(write(tmp_path, HEADER + "\n"))


def test_a_missing_list_is_refused(tmp_path):
    assert "no such label list" in refusal(tmp_path / "missing.txt")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_refused(tmp_path, encoding):
    assert "not readable as a UTF-8 text" in refusal(write(tmp_path, (HEADER + "Küche.wav\thome\t0\t1\tfan\n").encode(encoding)))


def test_a_folder_is_no_list(tmp_path):
    assert "not readable" in refusal(tmp_path)


def test_a_file_of_one_endless_line_is_refused(tmp_path):
    """Such as labels in JSON, given by mistake."""
    refusal(write(tmp_path, "[" + '{"path": "a.wav", "label": "fan"}, ' * 5000 + "]"))


def test_names_of_older_copies_are_brought_up_to_date(tmp_path):
    text = HEADER + "a.wav\thome\t0\t1\ttap \na.wav\thome\t1\t2\tfan\n"
    got = label_list.read_label_list(write(tmp_path, text), events=EVENTS, renamed={"tap": "water tap running", "x": "y"})
    assert [event.label for event in got[0].events] == ["water tap running", "fan"]
    # The vocabulary holds the names of today, and an old one that is not listed is still unknown.
    assert "unknown event 'tap'" in refusal(write(tmp_path, text), events=EVENTS)
    assert "unknown event 'brook'" in refusal(write(tmp_path, text), events=EVENTS, renamed={"tap": "brook"})


PAPER_HOP = {"hop_samples": 882, "sample_rate_hz": 44_100}
HOPS = [(882, 44_100), (441, 22_050), (160, 16_000), (1001, 44_100), (512, 48_000), (333, 11_025)]


def frames_of(onset_s, offset_s, frames=12, **options):
    """The numbers of the frames that one event activates."""
    active = annotation.events_to_frames([Event(onset_s, offset_s, "fan")], ["fan"], frames, **PAPER_HOP, **options)
    assert active.dtype == bool and active.shape == (frames, 1)
    return np.flatnonzero(active[:, 0]).tolist()


@pytest.mark.parametrize(
    ("onset_s", "offset_s", "frames"),
    [
        # 0.14 / 0.02 is 7.000000000000001 in floating point, and 0.06 / 0.02 is 3.0 where 0.58 / 0.02 is 28.999999999999996.
        (0.14, 0.16, [7]),
        (0.12, 0.14, [6]),
        (0.14, 0.1401, [7]),
        (0.06, 0.14, [3, 4, 5, 6]),
        (0.0, 0.02, [0]),
        (0.0, 0.020001, [0, 1]),
        (0.019999, 0.02, [0]),
        # Shorter than a frame: within one, and over a border.
        (0.045, 0.046, [2]),
        (0.0399, 0.0401, [1, 2]),
        # Of no length: the frame that holds the moment, which is the later one at a border.
        (0.0, 0.0, [0]),
        (0.05, 0.05, [2]),
        (0.14, 0.14, [7]),
        # Below a microsecond times are rounded: to 0.14 s, and to an event of no length.
        (0.1399999999, 0.1600000001, [7]),
        (0.0500000001, 0.0500000003, [2]),
        # Past the end, partly, wholly and from the very border on.
        (0.2, 99.0, [10, 11]),
        (0.24, 0.3, []),
        (0.24, 0.24, []),
        (5.0, 6.0, []),
    ],
)
def test_frames_by_hand(onset_s, offset_s, frames):
    assert frames_of(onset_s, offset_s) == frames


def test_every_border_of_the_papers_frames_is_met_exactly():
    """Ten seconds of events of one frame each, whose times are decimal numbers."""
    for t in range(500):
        event = Event(float(f"{t * 0.02:.2f}"), float(f"{(t + 1) * 0.02:.2f}"), "fan")
        active = annotation.events_to_frames([event], ["fan"], 500, **PAPER_HOP)
        assert np.flatnonzero(active[:, 0]).tolist() == [t]


def test_events_that_touch_share_no_frame_and_leave_no_gap():
    assert frames_of(0.02, 0.1) == [1, 2, 3, 4] and frames_of(0.1, 0.14) == [5, 6]


def test_overlapping_events_of_one_class_are_joined():
    events = [Event(0.06, 0.12, "fan"), Event(0.0, 0.08, "fan"), Event(0.02, 0.04, "fan"), Event(0.04, 0.08, "dishes")]
    active = annotation.events_to_frames(events, ["dishes", "fan"], 8, **PAPER_HOP)
    assert active.T.astype(int).tolist() == [[0, 0, 1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1, 0, 0]]


def test_without_events_no_frame_is_active():
    active = annotation.events_to_frames([], EVENTS, 5, **PAPER_HOP)
    assert active.shape == (5, 4) and not active.any()
    assert annotation.events_to_frames([Event(0.0, 1.0, "fan")], EVENTS, 0, **PAPER_HOP).shape == (0, 4)


def random_events(seed, hop, count=40, frames=60):
    """Events in whole microseconds, many of whose ends lie on or right beside a border of frames, as floats."""
    rng = np.random.default_rng(seed)
    micros = rng.integers(0, int(1.2 * frames * hop * 10**6), (count, 2))
    for pair in micros[::2]:
        pair[rng.integers(2)] = max(0, round(int(rng.integers(frames)) * hop * 10**6) + rng.integers(-1, 2))
    micros.sort(axis=1)
    micros[::5, 1] = micros[::5, 0]
    return [(int(a), int(b), ("fan", "dishes")[i % 2]) for i, (a, b) in enumerate(micros)]


def slowly(exact, labels, frames, hop):
    """The definition, word for word: a frame is active when an event overlaps it, or holds the moment of one."""
    active = np.zeros((frames, len(labels)), bool)
    for t, (onset, offset, label) in itertools.product(range(frames), exact):
        onset, offset = Fraction(onset, 10**6), Fraction(offset, 10**6)
        begin, end = t * hop, (t + 1) * hop
        if (onset < end and offset > begin) if offset > onset else (begin <= onset < end):
            active[t, labels.index(label)] = True
    return active


@pytest.mark.parametrize(("hop_samples", "sample_rate_hz"), HOPS)
def test_frames_are_those_of_the_definition(hop_samples, sample_rate_hz):
    hop, labels = Fraction(hop_samples, sample_rate_hz), ("dishes", "unused", "fan")
    for seed in range(3):
        # A few events at a time, so that none hides another.
        exact = random_events(seed, hop)
        for part in range(0, len(exact), 4):
            few = exact[part : part + 4]
            events = [Event(onset / 10**6, offset / 10**6, label) for onset, offset, label in few]
            got = annotation.events_to_frames(events, labels, 60, hop_samples=hop_samples, sample_rate_hz=sample_rate_hz)
            np.testing.assert_array_equal(got, slowly(few, labels, 60, hop))


@pytest.mark.parametrize(("hop_samples", "sample_rate_hz"), HOPS)
@pytest.mark.parametrize("size", [1, 7, 25])
def test_pieces_joined_are_the_whole(hop_samples, sample_rate_hz, size):
    """Events that begin before a piece, end after it, span it or miss it."""
    exact = random_events(3, Fraction(hop_samples, sample_rate_hz), count=6)
    events = [Event(onset / 10**6, offset / 10**6, label) for onset, offset, label in exact]
    options = {"hop_samples": hop_samples, "sample_rate_hz": sample_rate_hz}
    whole = annotation.events_to_frames(events, EVENTS, 75, **options)
    pieces = [annotation.events_to_frames(events, EVENTS, size, first_frame=first, **options) for first in range(0, 75, size)]
    np.testing.assert_array_equal(np.concatenate(pieces)[:75], whole)
    assert whole.any() and not whole.all()


@pytest.fixture(scope="module")
def published(shared_dir):
    folder = shared_dir / "datasets" / "sed_asc_metadata" / "meta"
    return {split: label_list.read_label_list(folder / f"meta_{split}.txt") for split in ("development", "evaluation")}


@pytest.mark.parametrize(("split", "recordings", "rows"), [("development", 112, 4675), ("evaluation", 136, 1634)])
def test_the_published_lists_are_read_completely(published, split, recordings, rows):
    listed = published[split]
    assert len(listed) == len({recording.path for recording in listed}) == recordings
    assert {recording.scene for recording in listed} == {"city_center", "home", "office", "residential_area"}
    assert sum(len(recording.events) for recording in listed) == rows
    assert len({event.label for recording in listed for event in recording.events}) == 25


def test_both_published_lists_have_the_same_events(published):
    one, other = ({event.label for recording in listed for event in recording.events} for listed in published.values())
    assert one == other


def test_oddities_of_the_published_lists_survive(published):
    """One event of no length; 122 times an event begins before the one before it, of the same class, has ended."""
    recordings = published["development"] + published["evaluation"]
    assert sum(event.onset_s == event.offset_s for recording in recordings for event in recording.events) == 1
    overlaps = 0
    for recording in recordings:
        for label in {event.label for event in recording.events}:
            spans = sorted((event.onset_s, event.offset_s) for event in recording.events if event.label == label)
            overlaps += sum(later[0] < earlier[1] for earlier, later in itertools.pairwise(spans))
    assert overlaps == 122
