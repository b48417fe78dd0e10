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

from mfl_jax.data.annotation import Event
from mfl_jax.errors import InputError
from mfl_jax.inference import display_data, page
from mfl_jax.inference.postprocessing import Rule, detect_events, read_rules
from mfl_jax.inference.prediction import DetectedEvent
from support.predictions import DETECTED, MEL, REFERENCE, make_prediction, write_noise

MALICIOUS = '"><img src=x onerror=alert(1)>.wav'


def find_element(text, name):
    return re.search(f'<script type="[a-z/]+" id="{name}">(.*?)</script>', text, re.DOTALL).group(1)


def read_data(file):
    return json.loads(find_element(file.read_text(), "data"))


def read_sound(file):
    media, encoded = find_element(file.read_text(), "sound").split(";base64,")
    return media, io.BytesIO(base64.b64decode(encoded, validate=True))


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of 2 s, and one of 70 s."""
    folder = tmp_path_factory.mktemp("pages")
    short = make_prediction(detected=DETECTED)
    page.write_page(short, write_noise(folder / "a.wav"), MEL, folder / "short.html", reference=REFERENCE)
    chirp_s = np.arange(70 * 8000) / 8000
    soundfile.write(folder / "b.wav", 0.3 * np.sin(np.pi * 40 * chirp_s**2), 8000)
    long = make_prediction(70.0, detected=(DetectedEvent(30.0, 32.0, "low", 0.7), DetectedEvent(61.2, 62.0, "high", 0.9)))
    page.write_page(long, folder / "b.wav", MEL, folder / "long.html")
    return folder


def test_data_of_the_script(pages):
    data = read_data(pages / "short.html")
    assert data["events"] == ["high", "unknown"] and data["scored"] == [0] and data["scenes"] == ["calm", "busy"]
    assert data["detected"] == [[0, 0.4, 0.9, 0.8], [0, 1.2, 1.5, 0.6]]
    assert data["reference"] == [[0, 0.5, 1.0], [1, 0.1, 0.3], [1, 0.2, 0.4]]
    scores = np.frombuffer(base64.b64decode(data["event_scores"]), np.uint8)
    np.testing.assert_array_equal(scores, np.round(255 * make_prediction(detected=DETECTED).frame_scores[:, 0]))
    scenes = np.frombuffer(base64.b64decode(data["scene_scores"]), np.uint8).reshape(2, page.COLUMNS)
    assert (scenes == [[191], [64]]).all()
    assert "2 events hidden (score below 0.1)." in data["notes"]
    assert data["summary"] == "Scene: calm (0.75). 2 events detected. 3 events in the reference."
    assert read_data(pages / "long.html")["reference"] is None


def test_spectrogram_of_the_page(pages):
    (encoded,) = re.findall(r'src="data:image/png;base64,([^"]+)"', (pages / "short.html").read_text())
    pixels = matplotlib.image.imread(io.BytesIO(base64.b64decode(encoded)))
    log_mel = display_data.read_spectrogram(make_prediction(), pages / "a.wav", MEL, page.COLUMNS)
    assert pixels.shape[:2] == (32, 100)
    brightness = pixels[..., :3].sum(-1)[::-1].T  # magma grows brighter all the way
    assert np.corrcoef(brightness.ravel(), np.clip(log_mel, *display_data.colour_limits(log_mel)).ravel())[0, 1] > 0.95


def test_short_sound_is_lossless(pages):
    media, sound = read_sound(pages / "short.html")
    samples, rate = soundfile.read(sound)
    assert media == "data:audio/flac" and rate == 24_000 and len(samples) == 48_000
    original = soundfile.read(pages / "a.wav")[0]
    # Every third sample equals the original except for the resampler's filter; an offset of one sample would give 0.83.
    assert np.corrcoef(samples[::3], original)[0, 1] > 0.97


def test_long_sound_is_aligned_and_small(pages):
    media, sound = read_sound(pages / "long.html")
    assert media == "data:audio/mpeg" and len(sound.getvalue()) == pytest.approx(70 * 7000, rel=0.02)
    samples, rate = soundfile.read(sound)
    for start_s in (10, 40, 65):
        some = samples[start_s * rate : start_s * rate + 4096]
        t = np.arange(len(some)) / rate + start_s
        # The correlation with the chirp, shifted by -10 to 10 ms, is highest without a shift.
        shifts = np.arange(-240, 241)
        match = [abs(np.mean(some * np.exp(-1j * np.pi * 40 * (t - shift / rate) ** 2))) for shift in shifts]
        assert abs(shifts[int(np.argmax(match))]) <= 24


def test_sound_of_long_recordings_is_linked(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "MAX_EMBEDDED_S", 1.0)
    (tmp_path / "sounds # 1").mkdir()
    (tmp_path / "pages").mkdir()
    file = write_noise(tmp_path / "sounds # 1" / "a.wav")
    page.write_page(make_prediction(), file, MEL, tmp_path / "pages" / "a.html")
    data = read_data(tmp_path / "pages" / "a.html")
    assert data["linked"] == "../sounds%20%23%201/a.wav" and data["linked_name"] == "a.wav"
    assert find_element((tmp_path / "pages" / "a.html").read_text(), "sound") == ""


def test_names_are_escaped(tmp_path):
    file = write_noise(tmp_path / "a.wav")
    label = "</script><script>alert(1)</script><!-- @@DATA@@"
    prediction = make_prediction(
        recording=f"@@DATA@@{MALICIOUS}\udcff", scenes=("<b>", "&amp;"), events=(label,),
        detected=(DetectedEvent(0, 1, label, 0.9),),
    )  # fmt: skip
    page.write_page(prediction, file, MEL, tmp_path / "a.html", reference=[Event(0, 1, label)])
    text = (tmp_path / "a.html").read_text()
    assert "alert(1)</script>" not in text and "<img src=x" not in text and text.count("<script") == 3
    assert read_data(tmp_path / "a.html")["events"] == [label]


def test_failed_page_leaves_no_file(tmp_path):
    file = write_noise(tmp_path / "a.wav")
    with pytest.raises(InputError, match="but the prediction covers"):
        page.write_page(make_prediction(9.0), file, MEL, tmp_path / "a.html")
    with pytest.raises(InputError, match="can't be written"):
        page.write_page(make_prediction(), file, MEL, tmp_path / "none" / "a.html")
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]


def test_page_needs_no_network(pages):
    text = (pages / "short.html").read_text()
    template = pathlib.Path(page.__file__).with_suffix(".html").read_text()
    assert not re.search(r"https?:|//[a-z]|@import|url\(|fetch\(|XMLHttp|import\(", template)
    assert re.findall(r"""(?:src|href)=["']([^"',]+)""", text) == ["data:", "data:image/png;base64"]


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and receives the findings of a page."""

    def do_POST(self):
        self.server.findings.put(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_request(self, *_):
        self.server.requests.append(self.path)

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
  const findings = {};
  try {
    await until(() => audio.readyState >= 1 || audio.error);
    await (async () => { PROBE })();
  } catch (error) { wrong.push(String(error)); }
  findings.wrong = wrong;
  await fetch("/findings", {method: "POST", body: JSON.stringify(findings)});
});
</script>"""


def browse(file, tmp_path, probe, *, width=1280, options=()):
    """Opens a page in a headless browser, in real time because sound needs it; returns the findings of the probe."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no Chromium on this machine")
    text = file.read_text()
    assert text.count("script-src 'unsafe-inline'") == 1
    text = text.replace("script-src 'unsafe-inline'", "script-src 'unsafe-inline'; connect-src 'self'")  # only for the probe
    probed = file.with_name("probed.html")
    probed.write_text(text.replace("</body></html>", PROBE.replace("PROBE", probe) + "</body></html>"))
    handler = functools.partial(_Handler, directory=file.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.findings, server.requests = queue.Queue(), []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        process = subprocess.Popen(
            [
                browser, *options, "--headless", "--no-sandbox", "--disable-gpu", "--autoplay-policy=no-user-gesture-required",
                f"--window-size={width},800", f"--user-data-dir={tmp_path / 'profile'}",
                f"http://127.0.0.1:{server.server_port}/probed.html",
            ],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            findings = json.loads(server.findings.get(timeout=60))
        finally:
            process.terminate()
            process.wait()
            server.shutdown()
    assert findings.pop("wrong") == []
    return findings, server.requests


def test_page_in_a_browser(pages, tmp_path):
    """Clicks, keys, cursor, zoom and scores work, and the page requests nothing but itself."""
    probe = """
    const at = () => [audio.currentTime, cursor()];
    findings.duration = audio.duration;
    const buttons = [...document.querySelectorAll("#lanes button")];
    findings.labels = buttons.map((button) => button.getAttribute("aria-label"));
    findings.places = buttons.map((button) => {
      const place = button.getBoundingClientRect(), origin = head.getBoundingClientRect().left;
      return [(place.left - origin) / scale, (place.right - origin) / scale];
    });
    buttons[1].click();
    findings.clicked = at();
    await until(() => audio.currentTime > 61.4);
    findings.playing = [!audio.paused, document.getElementById("play").textContent];
    press(" ");
    findings.paused = audio.paused;
    const keys = [["Home"], ["ArrowRight"], ["ArrowRight", {shiftKey: true}], ["ArrowLeft"], ["n"], ["ArrowDown"], ["p"], ["End"],
      ["ArrowUp"], ["ArrowLeft", {ctrlKey: true}]];
    findings.keys = [];
    for (const [key, more] of keys) { press(key, more); await until(() => !audio.seeking); findings.keys.push(at()); }
    press("n"); press("p");  // to the last event and back
    const whole = scale;
    press("+"); press("+"); press("+");
    findings.zoomed = scale / whole;
    findings.visible = inView(audio.currentTime);
    press("End");
    findings.followed = inView(audio.currentTime) && scroller.scrollLeft > 0;
    const box = head.getBoundingClientRect(), x = scroller.getBoundingClientRect().left + labelWidth() + 100;
    head.dispatchEvent(new MouseEvent("click", {clientX: x, clientY: box.top + 60, bubbles: true}));
    findings.spectrogram = [audio.currentTime, (x - box.left) / scale];
    press("0");
    findings.all = [scale / whole, scroller.scrollWidth <= scroller.clientWidth];
    const lane = lanes.getBoundingClientRect(), row = rows.find((row) => row.label === "low");
    lanes.dispatchEvent(new PointerEvent("pointermove", {clientX: lane.left + 31 * scale, clientY: lane.top + row.top + 5}));
    findings.hover = document.getElementById("readout").textContent;
    press("?");
    findings.help = [document.getElementById("help").open];
    press("?");
    findings.help.push(document.getElementById("help").open);
    await new Promise((done) => setTimeout(done, 100));
    const drawn = document.getElementById("picture"), pixels = drawn.getContext("2d").getImageData(0, 30, drawn.width, 100).data;
    findings.colours = new Set(pixels.filter((_, index) => index % 4 === 0)).size;
    findings.resources = performance.getEntriesByType("resource").map((entry) => entry.name.split(":")[0]);
    """
    findings, requests = browse(pages / "long.html", tmp_path, probe)
    assert findings["duration"] == pytest.approx(70, abs=0.2)
    assert findings["labels"] == [
        "low, 0:30.00 to 0:32.00, detected, confidence 0.70", "high, 1:01.20 to 1:02.00, detected, confidence 0.90",
    ]  # fmt: skip
    np.testing.assert_allclose(findings["places"], [[30, 32], [61.2, 62]], atol=0.03)
    np.testing.assert_allclose(findings["clicked"], 61.2, atol=0.05)
    assert findings["playing"] == [True, "Pause"] and findings["paused"]
    end = findings["duration"] if findings["duration"] < 70 else 70
    times = [0, 1, 6, 5, 30, 61.2, 30, end, 61.2, 61.2]
    np.testing.assert_allclose(findings["keys"], np.transpose([times, times]), atol=0.05)
    assert findings["zoomed"] == pytest.approx(8) and findings["visible"] and findings["followed"]
    assert findings["spectrogram"][0] == pytest.approx(findings["spectrogram"][1], abs=0.05)
    assert findings["all"] == [pytest.approx(1), True]
    assert findings["hover"] == "0:31.00 · low: 0.70 · calm 0.75 · low 0.70"
    assert findings["help"] == [True, False]
    assert findings["colours"] > 30
    assert requests == ["/probed.html", "/findings"] and set(findings["resources"]) <= {"blob", "data"}


def test_page_on_a_phone(pages, tmp_path):
    """Nothing is wider than the screen, and every button has a name."""
    probe = """
    document.querySelectorAll("#lanes .reference")[2].click();
    findings.reference = audio.currentTime;
    audio.pause();
    findings.wide = document.documentElement.scrollWidth - innerWidth;
    findings.width = innerWidth;
    const hasName = (button) => button.textContent.trim() || button.ariaLabel;
    findings.nameless = [...document.querySelectorAll("button")].filter((button) => !hasName(button)).length;
    findings.tabbable = [...document.querySelectorAll("#lanes button")].filter((button) => button.tabIndex === 0).length;
    findings.slider = ["aria-valuenow", "aria-valuemax", "aria-label"].map((name) => head.getAttribute(name));
    """
    findings, _ = browse(pages / "short.html", tmp_path, probe, width=390)
    assert findings["reference"] == pytest.approx(0.2, abs=0.05)
    assert findings["wide"] <= 0 and findings["width"] <= 500
    assert findings["nameless"] == 0 and findings["tabbable"] == 1
    assert findings["slider"] == ["0.2", "2.0", "Position in the recording"]


def test_linked_recording_with_a_malicious_name(tmp_path, monkeypatch):
    """The page plays a separate file; neither its name nor the labels can inject HTML."""
    monkeypatch.setattr(page, "MAX_EMBEDDED_S", 1.0)
    file = write_noise(tmp_path / MALICIOUS.replace("/", ""))
    label = "</script><img src=x onerror=alert(1)>"
    detected = (DetectedEvent(0.5, 1, label, 0.9),)
    prediction = make_prediction(recording=file.name, scenes=(label, "b"), events=(label,), detected=detected)
    page.write_page(prediction, file, MEL, tmp_path / "evil.html", reference=[Event(0, 1, label)])
    probe = """
    findings.duration = audio.duration;
    findings.link = document.querySelector("#linked a").textContent;
    findings.heading = document.querySelector("h1").textContent;
    findings.title = document.title;
    findings.rows = [...document.querySelectorAll("#labels div")].map((row) => row.textContent);
    findings.images = document.images.length;
    """
    findings, requests = browse(tmp_path / "evil.html", tmp_path, probe)
    assert findings["duration"] == pytest.approx(2)
    assert findings["link"] == findings["heading"] == findings["title"] == MALICIOUS
    assert findings["rows"] == ["Scenes", label, "b", "Events", label] and findings["images"] == 1
    assert {path for path in requests if "findings" not in path} == {
        "/probed.html", "/%22%3E%3Cimg%20src%3Dx%20onerror%3Dalert%281%29%3E.wav"
    }  # fmt: skip


@pytest.mark.parametrize("task", ["scenes", "events"])
def test_pages_of_one_task(tmp_path, task):
    nothing = {"scenes": {"events": (), "frame_scores": np.zeros((0, 0), np.float32)}, "events": {"scenes": ()}}[task]
    prediction = make_prediction(0.1, detected=() if task == "scenes" else (DetectedEvent(0.02, 0.06, "low", 0.5),))
    prediction = dataclasses.replace(prediction, **nothing)
    page.write_page(prediction, write_noise(tmp_path / "a.wav", 0.1), MEL, tmp_path / "a.html")
    probe = """
    press("n");
    findings.now = audio.currentTime;
    findings.rows = [...document.querySelectorAll("#labels div")].map((row) => row.textContent);
    """
    findings, _ = browse(tmp_path / "a.html", tmp_path, probe)
    expected = {"scenes": (0, ["Scenes", "calm", "busy"]), "events": (0.02, ["Events", "low"])}[task]
    assert (findings["now"], findings["rows"]) == (pytest.approx(expected[0], abs=0.005), expected[1])


ADJUSTED_RULES = {
    "high": Rule(median_s=0.1, threshold=0.62, low_threshold=0.4, max_gap_s=0.06, min_duration_s=0.06),
    "low": Rule(threshold=0.345),
}


def make_scored_prediction(rules):
    """A prediction with smooth random scores, and the events that the rules detect in them."""
    rng = np.random.default_rng(3)
    prediction = make_prediction(20.0)
    noise = rng.standard_normal((len(prediction.frame_scores) + 6, 2))
    smooth = sum(noise[shift : shift + len(prediction.frame_scores)] for shift in range(7)) / 7**0.5
    prediction.frame_scores[:, :2] = 1 / (1 + np.exp(-2 * smooth))
    prediction.frame_scores[:40, 1] = np.float32(0.7)  # exactly a threshold that the page offers
    return dataclasses.replace(prediction, detected=detect(prediction, rules))


def detect(prediction, rules):
    return detect_events(prediction.frame_scores, prediction.events, rules, hop_s=prediction.hop_s, duration_s=20.0)


@pytest.mark.ci_only
def test_thresholds_of_the_page_and_its_rules_file(tmp_path):
    """Sliders detect the events again at once. The saved file, read back, detects exactly the events that the page shows."""
    prediction = make_scored_prediction(ADJUSTED_RULES)
    page.write_page(prediction, write_noise(tmp_path / "a.wav", 20.0), MEL, tmp_path / "a.html", rules=ADJUSTED_RULES)
    probe = """
    let saved = null;
    const create = URL.createObjectURL;
    URL.createObjectURL = (blob) => { saved = blob; return create.call(URL, blob); };
    const sliderOf = (label) => [...document.querySelectorAll("#sliders label")]
      .find((candidate) => candidate.firstChild.textContent === label).querySelector("input");
    const state = async () => {
      document.getElementById("save").click();
      const buttons = [...document.querySelectorAll("#lanes .detected")].map((button) => button.getAttribute("aria-label"));
      return {file: await saved.text(), shown: shown.map(([row, ...rest]) => [data.events[row], ...rest]), buttons,
        summary: document.getElementById("summary").textContent};
    };
    document.getElementById("thresholds").open = true;
    findings.states = [await state()];
    for (const [label, threshold] of [["high", 0.41], ["low", 0.7], ["high", 0.9], ["low", 0.01], ["high", 0.3], ["low", 1]]) {
      const slider = sliderOf(label);
      slider.value = data.adjustable.levels[data.scored.indexOf(data.events.indexOf(label))].indexOf(threshold);
      slider.dispatchEvent(new Event("input", {bubbles: true}));
      findings.states.push(await state());
    }
    document.getElementById("reset").click();
    findings.states.push(await state());
    findings.wide = document.documentElement.scrollWidth - innerWidth;
    """
    findings, _ = browse(tmp_path / "a.html", tmp_path, probe, width=390)
    first, *_, last = findings["states"]
    counts = set()
    for number, state in enumerate(findings["states"]):
        file = tmp_path / f"{number}.json"
        file.write_text(state["file"])
        rules = read_rules(file, prediction.events)
        expected = detect(prediction, rules)
        shown = sorted(state["shown"], key=lambda event: (event[1], event[0]))
        assert [(label, onset, offset) for label, onset, offset, _ in shown] == [
            (event.label, pytest.approx(event.onset_s), pytest.approx(event.offset_s)) for event in expected
        ]
        assert [event[3] for event in shown] == pytest.approx([event.confidence for event in expected], abs=0.006)
        assert len(state["buttons"]) == len(expected) and f" {len(expected)} events detected." in state["summary"]
        counts.add(len(expected))
    assert first["file"] == last["file"] and len(counts) > 4
    assert read_rules(tmp_path / "0.json", prediction.events) == {**ADJUSTED_RULES, "never": Rule()}
    assert read_rules(tmp_path / "6.json", prediction.events)["high"] == dataclasses.replace(
        ADJUSTED_RULES["high"], threshold=0.3, low_threshold=0.3
    )
    assert findings["wide"] <= 0


def test_ranks_compare_like_the_scores():
    """A rank of at least k means a score of at least level k, also for scores next to a level."""
    prediction = make_prediction(1.0)
    levels = np.float32([0.3, 0.345, 0.5, 1.0])
    near = np.concatenate([np.nextafter(levels, np.float32(0)), levels, np.nextafter(levels, np.float32(2))]).clip(0, 1)
    prediction.frame_scores[: len(near), 0] = near
    adjustable = page._build_adjustable(prediction, [0], {"high": ADJUSTED_RULES["low"]})
    ranks = np.frombuffer(base64.b64decode(adjustable["ranks"]), np.uint8)
    (offered,) = adjustable["levels"]
    assert 0.345 in offered and len(offered) == 101
    for place, level in enumerate(offered):
        np.testing.assert_array_equal(ranks >= place + 1, prediction.frame_scores[:, 0] >= np.float32(level))


def test_scores_of_long_recordings_are_left_out(pages, monkeypatch):
    assert read_data(pages / "short.html")["adjustable"]["rules"]["never"]["threshold"] == 0.5
    monkeypatch.setattr(page, "MAX_ADJUSTABLE_SCORES", 49)
    assert page._build_adjustable(make_prediction(1.0), [0], {}) is None
    assert page._build_adjustable(make_prediction(1.0, events=()), [], {}) is None


@pytest.mark.ci_only
def test_hints_suit_the_screen(pages, tmp_path):
    """A screen that is touched gets hints for touch, others get those for a keyboard."""
    probe = """
    const isShown = (selector) => document.querySelector(selector).offsetHeight > 0;
    findings.shown = [isShown("p.touch"), isShown("p.keyboard"), isShown("#keys")];
    """
    touch = "--blink-settings=primaryPointerType=2,availablePointerTypes=2,primaryHoverType=1,availableHoverTypes=1"
    assert browse(pages / "short.html", tmp_path, probe, options=(touch,))[0]["shown"] == [True, False, False]
    assert browse(pages / "short.html", tmp_path, probe)[0]["shown"] == [False, True, True]
