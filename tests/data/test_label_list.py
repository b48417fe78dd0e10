"""Label lists: accepted spellings, and errors in them."""

import itertools

import pytest

from mfl_jax.data import label_list
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


def test_recordings_come_in_the_order_of_their_first_rows(tmp_path):
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
    ids=["byte order mark", "CRLF", "CR", "no final line end", "mark, spaces, CRLF", "spaces around fields"],
)
def test_encoding_marks_line_ends_and_spaces_make_no_difference(tmp_path, change):
    assert label_list.read_label_list(write(tmp_path, change(LIST)), scenes=SCENES, events=EVENTS) == RECORDINGS


def test_blank_lines_are_skipped_and_counted(tmp_path):
    lines = LIST.splitlines(keepends=True)
    path = write(tmp_path, "".join(["\n", lines[0], "\n", lines[1], " \t\t\n", *lines[2:], "\n\n"]))
    got = label_list.read_label_list(path)
    assert [(r.path, r.scene) for r in got] == [("a.wav", "home"), ("b/c.wav", "office")]
    # Row numbers match those of an editor.
    assert [event.row for recording in got for event in recording.events] == [4, 7, 6]


def test_columns_may_come_in_any_order_and_with_others(tmp_path):
    rows = [line.split("\t") for line in LIST.splitlines()]
    mixed = "".join("\t".join([label, end, "note", scene, path, start]) + "\n" for path, scene, start, end, label in rows)
    assert label_list.read_label_list(write(tmp_path, mixed)) == RECORDINGS


def test_a_row_with_empty_event_fields_is_a_recording_without_events(tmp_path):
    got = label_list.read_label_list(write(tmp_path, HEADER + "quiet.wav\thome\t\t\t\na.wav\thome\t1\t2\tfan\n"), events=EVENTS)
    assert got == [Recording("quiet.wav", "home", ()), Recording("a.wav", "home", (Event(1.0, 2.0, "fan", 3),))]


GROUPED = (
    HEADER[:-1] + "\tgroup\n"
    "a.wav\thome\t0\t1\tfan\tKüche  1\nb.wav\thome\t\t\t\t\nc.wav\thome\t\t\t\tKu\u0308che 1\na.wav\thome\t1\t2\tfan\tKüche 1\n"
)


def test_groups_are_read_and_normalised(tmp_path):
    got = label_list.read_label_list(write(tmp_path, GROUPED))
    assert [(recording.path, recording.group) for recording in got] == [("a.wav", "Küche 1"), ("b.wav", ""), ("c.wav", "Küche 1")]
    assert {recording.group for recording in label_list.read_label_list(write(tmp_path, LIST))} == {""}


@pytest.mark.parametrize("other", ["Hof", ""])
def test_two_groups_of_one_recording_are_refused(tmp_path, other):
    message = error_message(write(tmp_path, GROUPED + f"a.wav\thome\t3\t4\tfan\t{other}\n"))
    assert ", row 6: a.wav has the group " in message and message.endswith(
        f"{other!r} here and 'Küche 1' in row 2; a recording has one group"
    )


@pytest.mark.parametrize("name", ["Group", "groups", "GROUPS"])
def test_a_misspelled_group_column_gets_a_warning(tmp_path, capsys, name):
    path = write(tmp_path, GROUPED.replace("group", name))
    assert {recording.group for recording in label_list.read_label_list(path)} == {""}
    expected = f"warning: {path}, row 1: the column '{name}' is not used; the column of groups is called 'group'\n"
    assert capsys.readouterr().err == expected


def test_two_columns_of_groups_are_refused(tmp_path):
    content = HEADER[:-1] + "\tgroup\tgroup\na.wav\thome\t0\t1\tfan\tx\ty\n"
    assert "row 1: the column 'group' occurs more than once" in error_message(write(tmp_path, content))


@pytest.mark.parametrize("label", ["the \"door\" 'bang'", '"the ""door"" \'bang\'"'], ids=["plain", "as Excel writes it"])
def test_unicode_and_quotes_are_kept(tmp_path, label):
    path = write(tmp_path, HEADER + f'Küche/音 1.wav\t"Café, bar"\t0\t1\t{label}\n')
    expected = Recording("Küche/音 1.wav", "Café, bar", (Event(0.0, 1.0, "the \"door\" 'bang'", 2),))
    assert label_list.read_label_list(path) == [expected]


COMPOSED, DECOMPOSED = "h\u00fcndin", "hu\u0308ndin"


def test_labels_and_paths_that_look_the_same_are_the_same(tmp_path):
    rows = [
        ("a.wav", "big  city", COMPOSED),
        (f"{COMPOSED}.wav", "home", "big dog"),
        (f"{DECOMPOSED}.wav", "home", "big\u00a0dog"),
    ]
    rows += [("a.wav", "big\u00a0city", DECOMPOSED)]
    got = label_list.read_label_list(write(tmp_path, HEADER + "".join(f"{p}\t{s}\t0\t1\t{e}\n" for p, s, e in rows)))
    assert [(r.path, r.scene, [event.label for event in r.events]) for r in got] == [
        ("a.wav", "big city", [COMPOSED, COMPOSED]),
        (f"{COMPOSED}.wav", "home", ["big dog", "big dog"]),
    ]


def test_labels_have_the_spelling_of_the_vocabulary(tmp_path):
    """Older runs may have any: even two classes that look the same."""
    path = write(tmp_path, HEADER + f"a.wav\tbig city\t0\t1\t{COMPOSED}\na.wav\tbig city\t0\t1\tbig\u00a0dog\n")
    (recording,) = label_list.read_label_list(
        path, scenes=("big\u00a0city",), events=(DECOMPOSED, "big dog", "big\u00a0dog"), renamed={"x": "y"}
    )
    assert recording.scene == "big\u00a0city" and [e.label for e in recording.events] == [DECOMPOSED, "big\u00a0dog"]


def test_former_labels_are_renamed_in_any_spelling(tmp_path):
    path = write(tmp_path, HEADER + "a.wav\thome\t0\t1\twater\u00a0tap running \n")
    (recording,) = label_list.read_label_list(path, events=EVENTS[:3], renamed={"water tap running": "dishes"})
    assert recording.events[0].label == "dishes"


@pytest.mark.parametrize("on_disk", [COMPOSED, DECOMPOSED])
def test_paths_are_those_of_the_files(tmp_path, on_disk):
    (tmp_path / "audio").mkdir()
    (tmp_path / "audio" / f"{on_disk}.wav").touch()
    path = write(tmp_path, HEADER + f"audio/{COMPOSED}.wav\thome\t\t\t\naudio\\{DECOMPOSED}.wav\thome\t\t\t\n")
    got = label_list.read_label_list(path, root=tmp_path)
    assert [recording.path for recording in got] == [f"audio/{on_disk}.wav"]


@pytest.mark.parametrize("path", ["b\\c.wav", "./b/c.wav", "b//c.wav"])
def test_spellings_of_one_path_name_one_recording(tmp_path, path):
    got = label_list.read_label_list(write(tmp_path, HEADER + f"{path}\thome\t0\t1\tfan\nb/c.wav\thome\t1\t2\tfan\n"))
    assert [(recording.path, len(recording.events)) for recording in got] == [("b/c.wav", 2)]


def test_not_annotated_is_not_the_same_as_no_events(tmp_path):
    text = HEADER + "a.wav\t\t0\t1\tfan\nb.wav\thome\t\t\t?\nc.wav\thome\t\t\t\nd.wav\t?\t\t\t \ne.wav\t\t\t\t?\n"
    for vocabulary in ({}, {"scenes": SCENES, "events": EVENTS}):
        got = label_list.read_label_list(write(tmp_path, text), **vocabulary)
        assert got == [
            Recording("a.wav", "", (Event(0.0, 1.0, "fan", 2),)),
            Recording("b.wav", "home", (), events_annotated=False),
            Recording("c.wav", "home", ()),
            Recording("d.wav", "", ()),
            Recording("e.wav", "", (), events_annotated=False),
        ]


def error_message(path, **options):
    """Returns the error message of a label list; it must be one line."""
    with pytest.raises(InputError) as refused:
        label_list.read_label_list(path, **options)
    message = str(refused.value)
    assert message.startswith(str(path)) and "\n" not in message
    return message


GOOD = "a.wav\thome\t0.5\t1.25\tdishes\n"


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ("a.wav\thome\t0,5\t1\tfan", ["event_start_time '0,5' is not a number", "a decimal point, not a comma"]),
        ("a.wav\thome\t0.5\t1,25\tfan", ["event_end_time '1,25' is not a number", "a decimal point, not a comma"]),
        ("a.wav\thome\tnoon\t1\tfan", ["event_start_time 'noon' is not a number"]),
        ("a.wav\thome\t\t1\tfan", ["event_start_time '' is not a number"]),
        ("a.wav\thome\t0\t\tfan", ["event_end_time '' is not a number"]),
        ("a.wav\thome\t-0.5\t1\tfan", ["event_start_time '-0.5' must be finite and >= 0"]),
        ("a.wav\thome\tnan\t1\tfan", ["event_start_time 'nan' must be finite and >= 0"]),
        ("a.wav\thome\t0\tnan\tfan", ["event_end_time 'nan' must be finite and >= 0"]),
        ("a.wav\thome\t0\tinf\tfan", ["event_end_time 'inf' must be finite and >= 0"]),
        ("a.wav\thome\t2\t1.5\tfan", ["'fan' ends at 1.5 s, before it starts at 2 s"]),
        ("a.wav\thome\t0\t1\twater tap runing", ["unknown event 'water tap runing'", "did you mean 'water tap running'?"]),
        ("a.wav\thome\t0\t1\tFAN!", ["unknown event 'FAN!'", "known: cutlery, dishes, fan, water tap running"]),
        ("a.wav\thome\t0\t1\t", ["the event_label is empty"]),
        ("b.wav\thmoe\t0\t1\tfan", ["unknown scene 'hmoe'", "did you mean 'home'?"]),
        ("a.wav\t\t0\t1\tfan", ["a.wav", "scene '' here", "'home' in row 2"]),
        ("b.wav\thome\t0\t1\t?", ["'?' means that events are not annotated, but the row has times ('0', '1')"]),
        ("a.wav\thome\t\t\t?", ["row 3 says that the events of a.wav are not annotated ('?'), but row 2 annotates them"]),
        ("a.wav\toffice\t0\t1\tfan", ["a.wav", "'office' here", "'home' in row 2"]),
        ("a.wav\toffice\t\t\t", ["a.wav", "'office' here", "'home' in row 2"]),
        ("a.wav\thome\t0\t1_0\tfan", ["event_end_time '1_0' is not a number"]),
        (".\thome\t0\t1\tfan", ["'.' is not inside"]),
        ("a.wav\thome\t0\t1", ["4 fields, but the header has 5"]),
        ("a.wav\thome\t0\t1\tfan\t", ["6 fields, but the header has 5"]),
        ("a.wav home 0 1 fan", ["1 fields, but the header has 5; it looks separated by spaces; use tabs: 'a.wav home 0 1 fan'"]),
        ("a.wav;home;0,5;1;fan", ["1 fields, but the header has 5; it looks separated by ';'; use tabs"]),
        ("# a comment", ["1 fields, but the header has 5: '# a comment'"]),
        ('a.wav\thome\t0\t1\t"fan', ["a field in double quotes must end with one, and quotes inside it are doubled"]),
        ('a.wav\thome\t0\t1\t"fan" off', ["a field in double quotes must end with one"]),
        ("../a.wav\thome\t0\t1\tfan", ["'../a.wav'", "not inside the folder"]),
        ("b/../../a.wav\thome\t0\t1\tfan", ["'b/../../a.wav'", "not inside the folder"]),
        ("..\\a.wav\thome\t0\t1\tfan", ["not inside the folder"]),
        ("/data/a.wav\thome\t0\t1\tfan", ["'/data/a.wav'", "not inside the folder"]),
        ("\thome\t0\t1\tfan", ["''", "not inside the folder"]),
    ],
)
def test_an_invalid_row_is_refused_with_its_number_and_value(tmp_path, row, parts):
    message = error_message(write(tmp_path, HEADER + GOOD + row + "\n" + GOOD), scenes=SCENES, events=EVENTS)
    assert message.startswith(f"{tmp_path / 'list.txt'}, row 3: ")
    for part in parts:
        assert part in message


def test_the_row_number_counts_blank_lines(tmp_path):
    assert ", row 5: " in error_message(write(tmp_path, HEADER + "\n" + GOOD + "\na.wav\thome\t1\t0\tfan\n"))


@pytest.mark.parametrize("column", label_list.COLUMNS)
def test_a_missing_column_is_named(tmp_path, column):
    message = error_message(write(tmp_path, LIST.replace(column, "something")))
    assert f", row 1: no column '{column}'" in message and "'something'" in message


def test_a_list_without_a_header_is_refused(tmp_path):
    message = error_message(write(tmp_path, GOOD))
    assert "row 1: no column 'path', 'scene_label'" in message and "'dishes'" in message


def test_commas_instead_of_tabs_are_refused(tmp_path):
    assert "separated by tabs" in error_message(write(tmp_path, LIST.replace("\t", ",")))


@pytest.mark.parametrize("content", ["", "\n \n\t\t\n", b"\xef\xbb\xbf"], ids=["empty file", "blank lines", "byte order mark"])
def test_an_empty_list_is_refused(tmp_path, content):
    assert "the label list is empty; it needs the header" in error_message(write(tmp_path, content))


def test_a_column_that_occurs_twice_is_refused(tmp_path):
    content = HEADER.replace("scene_label", "scene_label\tscene_label") + "\na.wav\thome\toffice\t0\t1\tfan\n"
    assert "row 1: the column 'scene_label' occurs more than once" in error_message(write(tmp_path, content))


def test_a_header_without_rows_is_refused(tmp_path):
    assert "has a header but no rows" in error_message(write(tmp_path, HEADER + "\n"))


def test_a_missing_list_is_refused(tmp_path):
    assert "no such label list" in error_message(tmp_path / "missing.txt")


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_another_encoding_is_refused(tmp_path, encoding):
    assert "not readable as UTF-8 text" in error_message(
        write(tmp_path, (HEADER + "Küche.wav\thome\t0\t1\tfan\n").encode(encoding))
    )


def test_a_folder_is_refused(tmp_path):
    assert "not readable" in error_message(tmp_path)


def test_a_file_with_one_very_long_line_is_refused(tmp_path):
    """For example JSON."""
    error_message(write(tmp_path, "[" + '{"path": "a.wav", "label": "fan"}, ' * 5000 + "]"))


def test_renamed_labels_are_replaced(tmp_path):
    text = HEADER + "a.wav\thome\t0\t1\ttap \na.wav\thome\t1\t2\tfan\n"
    got = label_list.read_label_list(write(tmp_path, text), events=EVENTS, renamed={"tap": "water tap running", "x": "y"})
    assert [event.label for event in got[0].events] == ["water tap running", "fan"]
    # A former label must be listed in `renamed`, and its current name must be in the vocabulary.
    assert "unknown event 'tap'" in error_message(write(tmp_path, text), events=EVENTS)
    assert "unknown event 'brook'" in error_message(write(tmp_path, text), events=EVENTS, renamed={"tap": "brook"})


@pytest.fixture(scope="module")
def published(shared_dir):
    folder = shared_dir / "datasets" / "sed_asc_metadata" / "meta"
    return {split: label_list.read_label_list(folder / f"meta_{split}.txt") for split in ("development", "evaluation")}


@pytest.mark.parametrize(("split", "recordings", "rows"), [("development", 112, 4675), ("evaluation", 136, 1634)])
def test_the_published_lists_are_complete(published, split, recordings, rows):
    listed = published[split]
    assert len(listed) == len({recording.path for recording in listed}) == recordings
    assert {recording.scene for recording in listed} == {"city_center", "home", "office", "residential_area"}
    assert sum(len(recording.events) for recording in listed) == rows
    assert len({event.label for recording in listed for event in recording.events}) == 25


def test_both_published_lists_have_the_same_events(published):
    development, evaluation = (
        {event.label for recording in listed for event in recording.events} for listed in published.values()
    )
    assert development == evaluation


def test_irregular_events_of_the_published_lists_are_kept(published):
    """One event has zero length; 122 events begin before the previous one of their class has ended."""
    recordings = published["development"] + published["evaluation"]
    assert sum(event.onset_s == event.offset_s for recording in recordings for event in recording.events) == 1
    overlaps = 0
    for recording in recordings:
        for label in {event.label for event in recording.events}:
            spans = sorted((event.onset_s, event.offset_s) for event in recording.events if event.label == label)
            overlaps += sum(later[0] < earlier[1] for earlier, later in itertools.pairwise(spans))
    assert overlaps == 122
