"""Event lists: the common formats, and errors in them."""

import csv

import pytest

from mfl_jax.data.annotation import Event, Recording
from mfl_jax.data.event_list import Wanted, read_event_list, read_recordings
from mfl_jax.data.match_recordings import match_recordings
from mfl_jax.errors import InputError


def write_list(tmp_path, text, name="list.tsv"):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def as_tuples(recordings):
    return {name: [(event.onset_s, event.offset_s, event.label) for event in events] for name, events in recordings.items()}


TWO = {"a/x.wav": [(0.5, 2.25, "car"), (1.0, 1.4, "horn")], "a/y.wav": []}


@pytest.mark.parametrize(
    "text",
    [
        # DESED.
        "filename\tonset\toffset\tevent_label\na/x.wav\t0.5\t2.25\tcar\na/x.wav\t1.0\t1.4\thorn\na/y.wav\t\t\t\n",
        # A pandas data frame with its index and NaN.
        ",event_label,onset,offset,filename\n0,car,0.5,2.25,a/x.wav\n1,horn,1.0,1.4,a/x.wav\n2,,NaN,nan,a/y.wav\n",
        # This project's format, with a byte order mark, DOS line ends and blank lines.
        "\ufeffpath\tscene_label\tevent_start_time\tevent_end_time\tevent_label\r\na/x.wav\tstreet\t0.5\t2.25\tcar\r\n\r\n"
        "a/x.wav\tstreet\t1.0\t1.4\thorn\r\na/y.wav\thome\t\t\t\r\n",
        # dcase_util, with capitals in the names of columns.
        "File\tEvent_Onset\tEvent_Offset\tLabel\na/x.wav\t0.5\t2.25\tcar\na/x.wav\t1.0\t1.4\thorn\na/y.wav\n",
        # Without a header: four fields, some padded; five fields, with the scene; separated by commas.
        "a/x.wav\t  0.50\t 2.25\tcar\na/x.wav\t1.0\t1.4\thorn\na/y.wav\n",
        "a/x.wav\tstreet\t0.5\t2.25\tcar\na/x.wav\tstreet\t1.0\t1.4\thorn\na/y.wav\thome\n",
        "a/x.wav,0.5,2.25,car\na/x.wav,1e0,1.4,horn\na/y.wav\n",
    ],
)
def test_lists_that_name_recordings(tmp_path, text):
    assert as_tuples(read_event_list(write_list(tmp_path, text))) == TWO


@pytest.mark.parametrize(
    "text",
    [
        "0.5\t2.25\tcar\n1.0\t1.4\thorn\n",
        "onset,offset,event_label\n0.5,2.25,car\n1.0,1.4,horn\n",
        # An Audacity label track; the first label has a frequency range.
        "0.500000\t2.250000\tcar\n\\\t100.000000\t2000.000000\n1.000000\t1.400000\thorn\n",
    ],
)
def test_a_list_without_names_describes_the_recording_named_like_the_file(tmp_path, text):
    assert as_tuples(read_event_list(write_list(tmp_path, text, "a001.txt"))) == {"a001": TWO["a/x.wav"]}


def test_row_numbers_count_blank_lines(tmp_path):
    events = read_event_list(write_list(tmp_path, "filename\tonset\toffset\tevent_label\n\nx\t0\t1\tcar\nx\t1\t2\tcar\n"))["x"]
    assert [event.row for event in events] == [3, 4]


@pytest.mark.parametrize(
    "text",
    [
        'x\t0\t1\tAir horn, "truck" horn\n',
        'x\t0\t1\t"Air horn, ""truck"" horn"\n',  # as Excel, pandas and `predict` write it
        '"x"\t"0"\t"1"\t "Air horn, ""truck"" horn"\n',
        'x,0,1,"Air horn, ""truck"" horn"\n',
    ],
)
def test_labels_keep_commas_and_quotes(tmp_path, text):
    assert as_tuples(read_event_list(write_list(tmp_path, text))) == {"x": [(0.0, 1.0, 'Air horn, "truck" horn')]}


NAMES = ['he said "x".wav', '"x".wav', "it's; a, b.wav", "tab\there.wav", "ünï 1.wav"]
LABELS = ["talk, far", '"door"', '5" pipe', "it's", "a;b", "#1"]


@pytest.mark.parametrize("separator", ["\t", ","])
@pytest.mark.parametrize("writer", ["csv", "pandas"])
def test_tables_of_other_programs_keep_names_and_labels(tmp_path, separator, writer):
    # A tab anywhere in a table says that tabs separate its fields.
    names = [name for name in NAMES if separator == "\t" or "\t" not in name]
    rows = [(name, 0.5, 1.25, label) for name in names for label in LABELS]
    file, columns = tmp_path / "list.tsv", ("filename", "onset", "offset", "event_label")
    if writer == "csv":
        with file.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out, delimiter=separator).writerows([columns, *rows])
    else:
        pandas = pytest.importorskip("pandas")
        pandas.DataFrame(rows, columns=columns).to_csv(file, sep=separator, index=False)
    assert as_tuples(read_event_list(file)) == {name: [(0.5, 1.25, label) for label in LABELS] for name in names}


@pytest.mark.parametrize("label", ['"door', '"door" bang', '"two\nlines"', '"', '"a"b"'])
@pytest.mark.parametrize("separator", ["\t", ","])
def test_quotes_that_do_not_enclose_a_field_are_refused(tmp_path, label, separator):
    """Even if a later row would close them: the rows between would be lost."""
    rows = [("a", "0", "1", "x"), ("b", "0", "1", label), ("c", "0", "1", "x"), ("d", "0", "1", 'y"')]
    text = "".join(separator.join(row) + "\n" for row in rows)
    message = r"list\.tsv, row 2: not a row of the event list \(.*\); a field in double quotes must end with one"
    with pytest.raises(InputError, match=message) as refusal:
        read_event_list(write_list(tmp_path, text))
    assert "\n" not in str(refusal.value)


def test_names_and_labels_that_look_the_same_are_the_same(tmp_path):
    composed, decomposed = "h\u00fcndin", "hu\u0308ndin"
    text = f"{composed}.wav\t0\t1\tbig dog\n{decomposed}.wav\t1\t2\tbig\u00a0dog \n{composed}.wav\t2\t3\t{decomposed}\n"
    expected = [(0.0, 1.0, "big dog"), (1.0, 2.0, "big dog"), (2.0, 3.0, composed)]
    assert as_tuples(read_event_list(write_list(tmp_path, text))) == {f"{composed}.wav": expected}
    assert as_tuples(read_event_list(write_list(tmp_path, "0\t1\tcar\n", f"{decomposed}.txt"))) == {composed: [(0.0, 1.0, "car")]}


def test_lists_without_events(tmp_path):
    assert read_event_list(write_list(tmp_path, "", "x.txt")) == {"x": []}
    assert read_event_list(write_list(tmp_path, "onset\toffset\tlabel\n", "x.txt")) == {"x": []}
    assert read_event_list(write_list(tmp_path, "filename\tonset\toffset\tevent_label\n", "x.txt")) == {}
    assert read_event_list(write_list(tmp_path, "x.wav\ny.wav\n")) == {"x.wav": [], "y.wav": []}
    assert read_event_list(write_list(tmp_path, "x.wav\thome\ny.wav\tstreet\n")) == {"x.wav": [], "y.wav": []}


@pytest.mark.parametrize(
    "name", ["a001", "Y0_350.000_360.000.wav", "my dog 1 2 barks.wav", "#1.wav\t\t", "list of, a; b.flac", "two words\t", "7"]
)
def test_names_of_recordings_without_events(tmp_path, name):
    recordings = read_event_list(write_list(tmp_path, f"x.wav\t0\t1\tcar\n{name}\n"))
    assert as_tuples(recordings) == {"x.wav": [(0.0, 1.0, "car")], name.strip(): []}


EVENT = "a.wav\t0.5\t1.2\tcar\n"


@pytest.mark.parametrize(
    "text, row, value, hint",
    [
        ("0.5 1.2 car\n", 1, "0.5 1.2 car", "spaces"),
        ("0.5   1.2   car passing by\n", 1, "0.5   1.2   car passing by", "spaces"),
        (EVENT + "a.wav 2.0 3.0 horn\n", 2, "a.wav 2.0 3.0 horn", "spaces"),
        (EVENT + "a.wav 2.0 3.0 horn\t\t\t\n", 2, "a.wav 2.0 3.0 horn", "spaces"),
        ("0.5\t1.2\tcar\n2.0 3.0 horn\n", 2, "2.0 3.0 horn", "spaces"),
        ("0.5;1.2;car\n", 1, "0.5;1.2;car", "';'"),
        ("a.wav;0,5;1,2;car\n", 1, "a.wav;0", "';'"),
        ("0,5;1,2;car\n", 1, "5;1", "';'"),
        ("filename;onset;offset;event_label\na.wav;0.5;1.2;car\n", 1, "filename;onset;offset;event_label", "';'"),
        ("filename onset offset event_label\na.wav 0.5 1.2 car\n", 1, "filename onset offset event_label", "spaces"),
        ("0.5|1.2|car\n", 1, "0.5|1.2|car", "'|'"),
        (EVENT + "a.wav,2.0,3.0,horn\n", 2, "a.wav,2.0,3.0,horn", "','"),
        (EVENT + '"a.wav","2.0","3.0","horn"\n', 2, None, None),
        ("filename\tonset\toffset\tevent_label\nb.wav 0 1 car\n", 2, "b.wav 0 1 car", "spaces"),
        ("onset\toffset\tevent_label\n0 1 car\n", 2, "0 1 car", "spaces"),
        (EVENT + "# a comment\n", 2, "# a comment", None),
        ("# made by hand\n" + EVENT, 1, "# made by hand", None),
        (EVENT + "#comment\n", 2, "#comment", None),
        (EVENT + "# see a.wav\n", 2, "# see a.wav", None),
        (EVENT + "// a comment\n", 2, "// a comment", None),
        (EVENT + "end of list\n", 2, "end of list", None),
        ("0.5\n1.2\n", 1, "0.5", None),
        ("0.5\t1.2\n", 1, "0.5", None),
        ("0,5,1,2,car\n", 1, "5", None),
        ("a.wav\thome\t0\t1\tcar\nb.wav\t0.5\n", 2, "0.5", None),
    ],
)
def test_a_row_in_no_known_form_is_no_recording(tmp_path, text, row, value, hint):
    """Such a row became the name of a recording without events, so that its event was lost."""
    with pytest.raises(InputError, match=rf"list\.tsv, row {row}: ") as refusal:
        read_event_list(write_list(tmp_path, text))
    message = str(refusal.value)
    assert "\n" not in message and (value is None or value in message)
    assert f"it looks separated by {hint}; use tabs" in message if hint else "looks separated" not in message


def test_the_header_may_be_a_comment(tmp_path):
    text = "# filename\tonset\toffset\tevent_label\na.wav\t0\t1\tcar\n"
    assert as_tuples(read_event_list(write_list(tmp_path, text))) == {"a.wav": [(0.0, 1.0, "car")]}


def test_a_folder_holds_one_list_per_recording(tmp_path):
    write_list(tmp_path, "0\t1\tcar\n", "b.txt")
    write_list(tmp_path, "", "a.ann")
    write_list(tmp_path, "filename\tonset\toffset\tevent_label\n", "home/c.tsv")
    write_list(tmp_path, "audio/home/d.wav\t2\t3\tdog\n", "home/d.tsv")
    write_list(tmp_path, "onset,offset,event_label\n0,1,cat\n", "e.csv")
    write_list(tmp_path, "no list", "b.md")
    expected = {
        "e": [(0.0, 1.0, "cat")],
        "a": [],
        "b": [(0.0, 1.0, "car")],
        "home/c": [],
        "audio/home/d.wav": [(2.0, 3.0, "dog")],
    }
    assert as_tuples(read_event_list(tmp_path)) == expected
    write_list(tmp_path, "0\t1\tcar\n", "b.ann")
    with pytest.raises(InputError, match=r"b\.txt: the recording 'b' is also in .*b\.ann"):
        read_event_list(tmp_path)


HEADER = "filename\tonset\toffset\tevent_label\n"


@pytest.mark.parametrize(
    "text, message",
    [
        (HEADER + "x\t0\t1,5\tcar\n", r"list\.tsv, row 2: the offset '1,5' is not a number of seconds; write a decimal point"),
        (HEADER + "x\t-1\t1\tcar\n", r"row 2: the onset '-1' must be finite and >= 0"),
        (HEADER + "x\t0\tinf\tcar\n", r"row 2: the offset 'inf' must be finite and >= 0"),
        (HEADER + "x\t1_0\t11\tcar\n", r"row 2: the onset '1_0' is not a number"),
        (HEADER + "x\t0\t1\tcar\nx\t3\t2\tcar\n", r"row 3: 'car' ends at 2 s, before it starts at 3 s"),
        (HEADER + "x\t0\t1\t\n", r"row 2: the label is empty"),
        (HEADER + "x\t\t1\tcar\n", r"row 2: the onset '' is not a number"),
        (HEADER + "\t0\t1\tcar\n", r"row 2: the name of the recording is empty"),
        (HEADER + "x\t0\t1\tcar\tred\n", r"row 2: 5 fields, expected 4"),
        ("filename\tonset\tend\tevent_label\n", r"row 1: no column for the offset; name it 'offset' or 'event_offset'"),
        ("file\tpath\tonset\toffset\tlabel\n", r"row 1: the columns 'file' and 'path' both hold the recording"),
        (
            "name\tstart\tend\tlabel\nx\t0\t1\tcar\n",
            r"row 1: \['name', 'start', 'end', 'label'\] is neither an event nor a header",
        ),
        ("x\ta\t0\t1\tcar\t9\n", r"row 1: 6 fields; without a header a row must be"),
        ("x 0 1 car\ty\tz\n", r"row 1: .* is neither an event nor a header"),
        (b"x\t0\t1\t\xff\n", r"list\.tsv: not readable as UTF-8 text"),
    ],
)
def test_errors_are_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=message) as caught:
        read_event_list(write_list(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_missing_files_and_folders_without_lists_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such event list"):
        read_event_list(tmp_path / "none.tsv")
    with pytest.raises(InputError, match="no event list in this folder"):
        read_event_list(tmp_path)


def test_lists_of_public_systems(shared_dir):
    golden = shared_dir / "golden" / "event_metrics"
    desed = read_event_list(golden / "desed_task_psds_eval" / "validation.tsv")
    # 15 of its 4239 rows mark a recording without events.
    assert len(desed) == 1168 and sum(map(len, desed.values())) == 4224
    assert sum(not events for events in desed.values()) == 15
    system = read_event_list(golden / "sed_vis" / "a001_system_output.ann")
    assert match_recordings(read_event_list(golden / "sed_vis" / "a001.ann"), system) == {
        "a001": "audio/residential_area/a001.wav"
    }
    binary = read_event_list(golden / "sed_eval" / "tests" / "data" / "sound_event" / "binary5.txt")
    assert len(binary) == 6 and sum(map(len, binary.values())) == 4


def test_linked_folders_are_read_and_unreadable_ones_refused(tmp_path):
    write_list(tmp_path, "0\t1\tcar\n", "lists/a.txt")
    write_list(tmp_path, "0\t2\thorn\n", "disk/b.txt")
    write_list(tmp_path, "nonsense", "lists/._a.txt")  # as macOS leaves them
    (tmp_path / "lists" / "day2").symlink_to("../disk")
    assert as_tuples(read_event_list(tmp_path / "lists")) == {"a": [(0, 1, "car")], "day2/b": [(0, 2, "horn")]}
    (tmp_path / "lists" / "day3").symlink_to("../unmounted")
    with pytest.raises(InputError, match=r"lists/day3: not readable \(a folder without permission, or a link"):
        read_event_list(tmp_path / "lists")


def test_lists_with_scenes_groups_and_recordings_that_are_not_annotated(tmp_path):
    text = (
        "path\tscene_label\tevent_start_time\tevent_end_time\tevent_label\tgroup\n"
        "a.wav\thome\t0\t1\tcar\tyard\na.wav\thome\t1\t2\thorn\tyard\nb.wav\t\t\t\t?\t\nc.wav\t?\t\t\t\tn/a\n"
    )
    assert read_recordings(write_list(tmp_path, text)) == [
        Recording("a.wav", "home", (Event(0.0, 1.0, "car", 2), Event(1.0, 2.0, "horn", 3)), "yard"),
        Recording("b.wav", "", (), events_annotated=False),
        Recording("c.wav", "", ()),
    ]
    (recording,) = read_recordings(write_list(tmp_path, "x.wav\tstreet\t0\t1\tcar\n"))
    assert recording == Recording("x.wav", "street", (Event(0.0, 1.0, "car", 1),))
    assert read_event_list(write_list(tmp_path, "a.wav\t\t\t?\n")) == {"a.wav": []}


@pytest.mark.parametrize(
    "rows, message",
    [
        ("a.wav,1,2,?", r"row 2: the label '\?' means that events are not annotated, but the row has times \('1', '2'\); leave"),
        ("a.wav,0,1,car\na.wav,,,?", r"row 3: row 3 says that the events of a\.wav are not annotated .* row 2 annotates them"),
        ("a.wav,,,?\na.wav,0,1,car", r"row 3: row 2 says that the events of a\.wav are not annotated .* row 3 annotates them"),
    ],
)
def test_contradicting_rows_are_refused(tmp_path, rows, message):
    with pytest.raises(InputError, match=rf"list\.tsv, {message}"):
        read_recordings(write_list(tmp_path, f"filename,onset,offset,event_label\n{rows}\n"))


def test_columns_with_other_names(tmp_path):
    columns = {"recording": "File", "onset": "start", "offset": "end", "label": "Class", "group": "site"}
    text = "id,file,start,end,class,onset,site\n1,a.wav,0.5,1,car,9,yard\n2,b.wav,,,,,\n"
    assert read_recordings(write_list(tmp_path, text), Wanted(columns)) == [
        Recording("a.wav", "", (Event(0.5, 1.0, "car", 2),), "yard"),
        Recording("b.wav", "", ()),
    ]
    with pytest.raises(
        InputError, match=r"row 1: no column 'start' for the onset; the header is \['file', 'begin', 'end', 'class'"
    ):
        read_recordings(write_list(tmp_path, "file,begin,end,class,site\na,0,1,car,x\n"), Wanted(columns))
    with pytest.raises(InputError, match=r"no column 'File' for the recording; .*; it looks separated by ';'; use tabs"):
        read_recordings(write_list(tmp_path, "file;start;end;class;site\na;0;1;car;x\n"), Wanted(columns))


RAVEN = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)\tAnnotation\n"


def test_a_raven_table_has_a_row_for_each_view(tmp_path):
    rows = "1\tWaveform 1\t1\t0.5\t2.25\t0\t0\tcar\n1\tSpectrogram 1\t1\t0.5\t2.25\t0\t900\tcar\n"
    file = write_list(tmp_path, RAVEN + rows + "2\tSpectrogram 1\t1\t1.0\t1.4\t0\t900\thorn\n", "a001.Table.1.selections.txt")
    assert as_tuples(read_event_list(file)) == {"a001": TWO["a/x.wav"]}
    assert as_tuples(read_event_list(write_list(tmp_path, RAVEN, "b.BirdNET.selections.txt"))) == {"b": []}


def test_a_raven_table_of_several_files_needs_the_offset_in_each(tmp_path):
    """Two files of 60 s; the event at 61.5 s is at 1.5 s of the second one."""
    names = "Selection\tView\tBegin Time (s)\tEnd Time (s)\tBegin File\tFile Offset (s)\tSpecies\n"
    rows = "1\tSpectrogram 1\t2.5\t3.0\ta.wav\t2.5\tcar\n2\tSpectrogram 1\t61.5\t61.9\tb.wav\t1.5\thorn\n"
    expected = {"a.wav": [(2.5, 3.0, "car")], "b.wav": [(1.5, 1.9, "horn")]}
    assert as_tuples(read_event_list(write_list(tmp_path, names + rows))) == expected
    message = r"row 3: times of 'b\.wav' count from the start of 'a\.wav', as Raven had both open; add the column 'File Offset"
    with pytest.raises(InputError, match=message):
        read_event_list(write_list(tmp_path, names.replace("File Offset (s)", "Delta") + rows))


@pytest.mark.parametrize(
    "text, message",
    [
        (RAVEN + "1\tWaveform 1\t1\t0,5\t2\t0\t0\tcar\n", r"row 2: the onset '0,5' is not a number of seconds; write a decimal"),
        (RAVEN + "1\tWaveform 1\t1\t0.5\t2\t0\t0\t\n", r"row 2: the label is empty"),
        (RAVEN.replace("Annotation", "Note"), r"row 1: no column for the label; name it 'annotation' or"),
    ],
)
def test_errors_of_raven_tables_are_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=rf"list\.tsv, {message}"):
        read_event_list(write_list(tmp_path, text))
