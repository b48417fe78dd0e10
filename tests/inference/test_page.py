"""The page of a recording: its parts, and its behaviour in a browser."""

import base64
import dataclasses
import functools
import http.server
import io
import json
import pathlib
import queue
import re
import shutil
import subprocess
import threading

import matplotlib.image
import numpy as np
import pytest
import soundfile
from test_picture import HEARD, MEL, TRUE, prediction, recording

from mfl_jax.data.annotation import Event
from mfl_jax.errors import InputError
from mfl_jax.inference import display_data, page
from mfl_jax.inference.prediction import DetectedEvent

EVIL = '"><img src=x onerror=alert(1)>.wav'


def element(text, name):
    return re.search(f'<script type="[a-z/]+" id="{name}">(.*?)</script>', text, re.DOTALL).group(1)


def data_of(file):
    return json.loads(element(file.read_text(), "data"))


def sound_of(file):
    media, encoded = element(file.read_text(), "sound").split(";base64,")
    return media, io.BytesIO(base64.b64decode(encoded, validate=True))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of 2 s, and one of 70 s."""
    folder = tmp_path_factory.mktemp("pages")
    page.write_page(prediction(detected=HEARD), recording(folder / "a.wav"), MEL, folder / "short.html", reference=TRUE)
    chirp_s = np.arange(70 * 8000) / 8000
    soundfile.write(folder / "b.wav", 0.3 * np.sin(np.pi * 40 * chirp_s**2), 8000)
    long = prediction(70.0, detected=(DetectedEvent(30.0, 32.0, "low", 0.7), DetectedEvent(61.2, 62.0, "high", 0.9)))
    page.write_page(long, folder / "b.wav", MEL, folder / "long.html")
    return folder


def test_what_the_script_is_told(pages):
    told = data_of(pages / "short.html")
    assert told["events"] == ["high", "unheard"] and told["scored"] == [0] and told["scenes"] == ["calm", "busy"]
    assert told["detected"] == [[0, 0.4, 0.9, 0.8], [0, 1.2, 1.5, 0.6]]
    assert told["reference"] == [[0, 0.5, 1.0], [1, 0.1, 0.3], [1, 0.2, 0.4]]
    scores = np.frombuffer(base64.b64decode(told["event_scores"]), np.uint8)
    np.testing.assert_array_equal(scores, np.round(255 * prediction(detected=HEARD).frame_scores[:, 0]))
    scenes = np.frombuffer(base64.b64decode(told["scene_scores"]), np.uint8).reshape(2, page.COLUMNS)
    assert (scenes == [[191], [64]]).all()
    assert "2 events hidden (score below 0.1)." in told["notes"]
    assert told["summary"] == "Scene: calm (0.75). 2 events detected. 3 events in the reference."
    assert data_of(pages / "long.html")["reference"] is None


def test_the_spectrogram_of_the_page(pages):
    (encoded,) = re.findall(r'src="data:image/png;base64,([^"]+)"', (pages / "short.html").read_text())
    pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(encoded)))
    log_mel = display_data.read_spectrogram(prediction(), pages / "a.wav", MEL, page.COLUMNS)
    assert pixels.shape[:2] == (32, 100)
    brightness = pixels[..., :3].sum(-1)[::-1].T  # magma grows brighter all the way
    assert np.corrcoef(brightness.ravel(), np.clip(log_mel, *display_data.colour_limits(log_mel)).ravel())[0, 1] > 0.95


def test_a_short_sound_is_lossless(pages):
    media, sound = sound_of(pages / "short.html")
    samples, rate = soundfile.read(sound)
    assert media == "data:audio/flac" and rate == 24_000 and len(samples) == 48_000
    original = soundfile.read(pages / "a.wav")[0]
    # Every third sample, but for the filter of the resampler at the upper end of its band; one sample off would give 0.83.
    assert np.corrcoef(samples[::3], original)[0, 1] > 0.97


def test_a_long_sound_is_in_its_place_and_small(pages):
    media, sound = sound_of(pages / "long.html")
    assert media == "data:audio/mpeg" and len(sound.getvalue()) == pytest.approx(70 * 7000, rel=0.02)
    samples, rate = soundfile.read(sound)
    for start_s in (10, 40, 65):
        some = samples[start_s * rate : start_s * rate + 4096]
        t = np.arange(len(some)) / rate + start_s
        # The correlation with the chirp, shifted by -10 to 10 ms, is highest without a shift.
        shifts = np.arange(-240, 241)
        match = [abs(np.mean(some * np.exp(-1j * np.pi * 40 * (t - shift / rate) ** 2))) for shift in shifts]
        assert abs(shifts[int(np.argmax(match))]) <= 24


def test_an_hour_is_the_longest_that_is_embedded(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MAX_EMBEDDED_S", 1.0)
    (tmp_path / "sounds # 1").mkdir()
    (tmp_path / "pages").mkdir()
    file = recording(tmp_path / "sounds # 1" / "a.wav")
    page.write_page(prediction(), file, MEL, tmp_path / "pages" / "a.html")
    told = data_of(tmp_path / "pages" / "a.html")
    assert told["linked"] == "../sounds%20%23%201/a.wav" and told["linked_name"] == "a.wav"
    assert element((tmp_path / "pages" / "a.html").read_text(), "sound") == ""


def test_names_do_nothing(tmp_path):
    file = recording(tmp_path / "a.wav")
    label = "</script><script>alert(1)</script><!-- @@DATA@@"
    heard = prediction(
        recording=f"@@DATA@@{EVIL}\udcff", scenes=("<b>", "&amp;"), events=(label,), detected=(DetectedEvent(0, 1, label, 0.9),)
    )  # fmt: skip
    page.write_page(heard, file, MEL, tmp_path / "a.html", reference=[Event(0, 1, label)])
    text = (tmp_path / "a.html").read_text()
    assert "alert(1)</script>" not in text and "<img src=x" not in text and text.count("<script") == 3
    assert data_of(tmp_path / "a.html")["events"] == [label]


def test_a_page_that_fails_leaves_nothing(tmp_path):
    file = recording(tmp_path / "a.wav")
    with pytest.raises(InputError, match="but the prediction covers"):
        page.write_page(prediction(9.0), file, MEL, tmp_path / "a.html")
    with pytest.raises(InputError, match="can't be written"):
        page.write_page(prediction(), file, MEL, tmp_path / "none" / "a.html")
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_the_page_names_no_address(pages):
    text = (pages / "short.html").read_text()
    template = pathlib.Path(page.__file__).with_suffix(".html").read_text()
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttp|import\(", template)
    assert re.findall(r"""(?:src|href)=["']([^"',]+)""", text) == ["data:", "data:image/png;base64"]


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, and takes in what a page found."""

    def do_POST(self):
        self.server.found.put(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_request(self, *_):
        self.server.asked.append(self.path)

    def log_message(self, *_):
        pass


PROBE = """<script>
const wrong = [];
addEventListener("error", (event) => wrong.push(event.message));
addEventListener("securitypolicyviolation", (event) => wrong.push(event.blockedURI));
console.error = console.warn = (...all) => wrong.push(all.join(" "));
window.alert = () => wrong.push("alert");
const press = (key, more) => document.activeElement.dispatchEvent(
  new KeyboardEvent("keydown", {key, bubbles: true, cancelable: true, ...more}));
const until = async (holds) => { while (!holds()) await new Promise((done) => setTimeout(done, 20)); };
const leftOf = (name) => document.getElementById(name).getBoundingClientRect().left;
const cursor = () => (leftOf("cursor") + 1 - leftOf("head")) / scale;
addEventListener("load", async () => {
  const found = {};
  try {
    await until(() => audio.readyState >= 1 || audio.error);
    await (async () => { PROBE })();
  } catch (error) { wrong.push(String(error)); }
  found.wrong = wrong;
  await fetch("/found", {method: "POST", body: JSON.stringify(found)});
});
</script>"""


def browse(file, tmp_path, probe, *, width=1280):
    """Opens a page in a headless browser, in real time since sound keeps no other; returns what the probe found."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    text = file.read_text()
    assert text.count("script-src 'unsafe-inline'") == 1
    text = text.replace("script-src 'unsafe-inline'", "script-src 'unsafe-inline'; connect-src 'self'")  # for the probe alone
    probed = file.with_name("probed.html")
    probed.write_text(text.replace("</body></html>", PROBE.replace("PROBE", probe) + "</body></html>"))
    handler = functools.partial(_Handler, directory=file.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.found, server.asked = queue.Queue(), []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        process = subprocess.Popen(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required",
                f"--window-size={width},800", f"--user-data-dir={tmp_path / 'profile'}",
                f"http://127.0.0.1:{server.server_port}/probed.html",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            found = json.loads(server.found.get(timeout=60))
        finally:
            process.terminate()
            process.wait()
            server.shutdown()
    assert found.pop("wrong") == []
    return found, server.asked


def test_the_page_in_a_browser(pages, tmp_path):
    """Clicks, keys, cursor, zoom, scores; not a request beyond the page itself."""
    probe = """
    const at = () => [audio.currentTime, cursor()];
    found.duration = audio.duration;
    const buttons = [...document.querySelectorAll("#lanes button")];
    found.labels = buttons.map((button) => button.getAttribute("aria-label"));
    found.places = buttons.map((button) => {
      const place = button.getBoundingClientRect(), origin = head.getBoundingClientRect().left;
      return [(place.left - origin) / scale, (place.right - origin) / scale];
    });
    buttons[1].click();
    found.clicked = at();
    await until(() => audio.currentTime > 61.4);
    found.playing = [!audio.paused, document.getElementById("play").textContent];
    press(" ");
    found.paused = audio.paused;
    const keys = [["Home"], ["ArrowRight"], ["ArrowRight", {shiftKey: true}], ["ArrowLeft"], ["n"], ["ArrowDown"], ["p"], ["End"],
      ["ArrowUp"], ["ArrowLeft", {ctrlKey: true}]];
    found.keys = [];
    for (const [key, more] of keys) { press(key, more); await until(() => !audio.seeking); found.keys.push(at()); }
    press("n"); press("p");  // as far as there are events
    const whole = scale;
    press("+"); press("+"); press("+");
    found.zoomed = scale / whole;
    found.visible = inView(audio.currentTime);
    press("End");
    found.followed = inView(audio.currentTime) && scroller.scrollLeft > 0;
    const box = head.getBoundingClientRect(), x = scroller.getBoundingClientRect().left + labelWidth() + 100;
    head.dispatchEvent(new MouseEvent("click", {clientX: x, clientY: box.top + 60, bubbles: true}));
    found.spectrogram = [audio.currentTime, (x - box.left) / scale];
    press("0");
    found.all = [scale / whole, scroller.scrollWidth <= scroller.clientWidth];
    const lane = lanes.getBoundingClientRect(), row = rows.find((one) => one.label === "low");
    lanes.dispatchEvent(new PointerEvent("pointermove", {clientX: lane.left + 31 * scale, clientY: lane.top + row.top + 5}));
    found.hover = document.getElementById("readout").textContent;
    press("?");
    found.help = [document.getElementById("help").open];
    press("?");
    found.help.push(document.getElementById("help").open);
    await new Promise((done) => setTimeout(done, 100));
    const drawn = document.getElementById("picture"), pixels = drawn.getContext("2d").getImageData(0, 30, drawn.width, 100).data;
    found.colours = new Set(pixels.filter((_, index) => index % 4 === 0)).size;
    found.resources = performance.getEntriesByType("resource").map((entry) => entry.name.split(":")[0]);
    """
    found, asked = browse(pages / "long.html", tmp_path, probe)
    assert found["duration"] == pytest.approx(70, abs=0.2)
    assert found["labels"] == [
        "low, 0:30.00 to 0:32.00, detected, confidence 0.70", "high, 1:01.20 to 1:02.00, detected, confidence 0.90",
    ]  # fmt: skip
    np.testing.assert_allclose(found["places"], [[30, 32], [61.2, 62]], atol=0.03)
    np.testing.assert_allclose(found["clicked"], 61.2, atol=0.05)
    assert found["playing"] == [True, "Pause"] and found["paused"]
    end = found["duration"] if found["duration"] < 70 else 70
    times = [0, 1, 6, 5, 30, 61.2, 30, end, 61.2, 61.2]
    np.testing.assert_allclose(found["keys"], np.transpose([times, times]), atol=0.05)
    assert found["zoomed"] == pytest.approx(8) and found["visible"] and found["followed"]
    assert found["spectrogram"][0] == pytest.approx(found["spectrogram"][1], abs=0.05)
    assert found["all"] == [pytest.approx(1), True]
    assert found["hover"] == "0:31.00 · low: 0.70 · calm 0.75 · low 0.70"
    assert found["help"] == [True, False]
    assert found["colours"] > 30
    assert asked == ["/probed.html", "/found"] and set(found["resources"]) <= {"blob", "data"}


def test_the_page_on_a_telephone(pages, tmp_path):
    """Events and reference of a short recording; nothing is wider than the screen, everything has a name."""
    probe = """
    document.querySelectorAll("#lanes .reference")[2].click();
    found.reference = audio.currentTime;
    audio.pause();
    found.wide = document.documentElement.scrollWidth - innerWidth;
    found.width = innerWidth;
    found.nameless = [...document.querySelectorAll("button")].filter((one) => !one.textContent.trim() && !one.ariaLabel).length;
    found.tabbable = [...document.querySelectorAll("#lanes button")].filter((one) => one.tabIndex === 0).length;
    found.slider = ["aria-valuenow", "aria-valuemax", "aria-label"].map((name) => head.getAttribute(name));
    """
    found, _ = browse(pages / "short.html", tmp_path, probe, width=390)
    assert found["reference"] == pytest.approx(0.2, abs=0.05)
    assert found["wide"] <= 0 and found["width"] <= 500
    assert found["nameless"] == 0 and found["tabbable"] == 1
    assert found["slider"] == ["0.2", "2.0", "Position in the recording"]


def test_a_linked_recording_with_an_evil_name(tmp_path, monkeypatch):
    """A page that plays a file beside it, whose name and labels try to be more than names."""
    monkeypatch.setattr(page, "MAX_EMBEDDED_S", 1.0)
    file = recording(tmp_path / EVIL.replace("/", ""))
    label = "</script><img src=x onerror=alert(1)>"
    heard = prediction(recording=file.name, scenes=(label, "b"), events=(label,), detected=(DetectedEvent(0.5, 1, label, 0.9),))
    page.write_page(heard, file, MEL, tmp_path / "evil.html", reference=[Event(0, 1, label)])
    probe = """
    found.duration = audio.duration;
    found.link = document.querySelector("#linked a").textContent;
    found.heading = document.querySelector("h1").textContent;
    found.title = document.title;
    found.rows = [...document.querySelectorAll("#labels div")].map((row) => row.textContent);
    found.images = document.images.length;
    """
    found, asked = browse(tmp_path / "evil.html", tmp_path, probe)
    assert found["duration"] == pytest.approx(2)
    assert found["link"] == found["heading"] == found["title"] == EVIL
    assert found["rows"] == ["Scenes", label, "b", "Events", label] and found["images"] == 1
    assert {path for path in asked if "found" not in path} == {
        "/probed.html", "/%22%3E%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E.wav"
    }  # fmt: skip


@pytest.mark.parametrize("task", ["scenes", "events"])
def test_pages_of_one_task(tmp_path, task):
    nothing = {"scenes": {"events": (), "frame_scores": np.zeros((0, 0), np.float32)}, "events": {"scenes": ()}}[task]
    heard = prediction(0.1, detected=() if task == "scenes" else (DetectedEvent(0.02, 0.06, "low", 0.5),))
    heard = dataclasses.replace(heard, **nothing)
    page.write_page(heard, recording(tmp_path / "a.wav", 0.1), MEL, tmp_path / "a.html")
    probe = """
    press("n");
    found.now = audio.currentTime;
    found.rows = [...document.querySelectorAll("#labels div")].map((row) => row.textContent);
    """
    found, _ = browse(tmp_path / "a.html", tmp_path, probe)
    expected = {"scenes": (0, ["Scenes", "calm", "busy"]), "events": (0.02, ["Events", "low"])}[task]
    assert (found["now"], found["rows"]) == (pytest.approx(expected[0], abs=0.005), expected[1])
