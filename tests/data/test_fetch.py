"""Downloads of the TUT archives, from a local server that may break off, and their unpacking."""

import hashlib
import http.server
import importlib.util
import io
import threading
import zipfile

import pytest

from mfl_jax.errors import InputError
from support import ROOT

FILE = ROOT / "datasets" / "tut_scenes_events" / "fetch.py"
SPEC = importlib.util.spec_from_file_location("fetch_under_test", FILE)
fetch = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fetch)


def make_zip(**files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/"), text)
    return content.getvalue()


@pytest.fixture
def server():
    """Serves {path: bytes}; closes the connection halfway through the body `breaks[path]` times."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            self.server.requested.append(path)
            content = self.server.files.get(path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.server.breaks.get(path, 0):
                self.server.breaks[path] -= 1
                self.wfile.write(content[: len(content) // 2])
                return
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.breaks, server.requested = {}, {}, []
        server.url = f"http://127.0.0.1:{server.server_port}/{{record}}/{{file}}?download=1"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Skips the pauses between attempts, which take seconds."""
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)


def offer(server, record, file, content, md5=None):
    server.files[f"/{record}/{file}"] = content
    return fetch.Archive(record, file, len(content), md5 or hashlib.md5(content).hexdigest())


def test_archives_are_downloaded_checked_and_unpacked_once(server, tmp_path):
    wanted = [
        offer(server, "1", "a.zip", make_zip(TUT__audio__x="x" * 5000)),
        offer(server, "2", "b.zip", make_zip(TUT__audio__y="y")),
    ]
    fetch.fetch(wanted, tmp_path, url=server.url)
    assert (tmp_path / "TUT" / "audio" / "x").read_text() == "x" * 5000
    assert (tmp_path / "TUT" / "audio" / "y").read_text() == "y"
    assert sorted(path.name for path in (tmp_path / "archives").iterdir()) == ["a.zip.done", "b.zip.done"]
    requests = len(server.requested)
    fetch.fetch(wanted, tmp_path, url=server.url)
    assert len(server.requested) == requests == 2


def test_an_interrupted_download_is_tried_again(server, tmp_path):
    wanted = [offer(server, "1", "a.zip", make_zip(x="x" * 100_000))]
    server.breaks["/1/a.zip"] = 3
    fetch.fetch(wanted, tmp_path, url=server.url)
    assert len(server.requested) == 4 and (tmp_path / "x").stat().st_size == 100_000


def test_complete_archives_survive_a_failing_download(server, tmp_path):
    wanted = [offer(server, "1", "a.zip", make_zip(x="x")), offer(server, "2", "b.zip", make_zip(y="y" * 100_000))]
    server.breaks["/2/b.zip"] = 99
    with pytest.raises(InputError, match=r"2/b.zip.*run the same command again"):
        fetch.fetch(wanted, tmp_path, url=server.url)
    assert not (tmp_path / "y").exists() and not (tmp_path / "archives" / "b.zip").exists()
    server.breaks.clear()
    server.requested.clear()
    fetch.fetch(wanted, tmp_path, url=server.url)
    assert server.requested == ["/2/b.zip"] and (tmp_path / "y").exists()


def test_a_complete_archive_is_not_downloaded_again(server, tmp_path):
    wanted = [offer(server, "1", "a.zip", make_zip(x="x"))]
    fetch.fetch(wanted, tmp_path, url=server.url, keep_archives=True)
    (tmp_path / "archives" / "a.zip.done").unlink()  # as after an interruption while unpacking
    fetch.fetch(wanted, tmp_path, url=server.url, keep_archives=True)
    assert server.requested == ["/1/a.zip"]


def test_a_wrong_md5_sum_is_refused(server, tmp_path):
    with pytest.raises(InputError, match="MD5 sum was not the published"):
        fetch.fetch([offer(server, "1", "a.zip", make_zip(x="x"), md5="0" * 32)], tmp_path, url=server.url)
    assert not (tmp_path / "x").exists() and not list((tmp_path / "archives").iterdir())


def test_a_missing_archive_is_named(server, tmp_path):
    with pytest.raises(InputError, match=r"1/none.zip"):
        fetch.fetch([fetch.Archive("1", "none.zip", 1, "0" * 32)], tmp_path, url=server.url)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_nothing_is_unpacked_outside_the_folder(tmp_path, name):
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("good", "good")
        file.writestr(name, "evil")
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True)
    with pytest.raises(InputError, match="would be unpacked outside"):
        fetch.unpack(archive, folder)
    assert not list(folder.iterdir()) and not list(tmp_path.rglob("outside"))


def test_a_damaged_archive_is_named(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"not an archive")
    with pytest.raises(InputError, match=r"a.zip: not a complete zip archive"):
        fetch.unpack(tmp_path / "a.zip", tmp_path)


def test_the_published_archives_are_listed():
    archives = fetch.list_archives()
    assert len({archive.record for archive in archives}) == 7 and len(archives) == 20
    assert sum(archive.bytes for archive in archives) == 17_447_780_310
    assert all(len(archive.md5) == 32 and archive.file.endswith(".zip") for archive in archives)
    assert len({archive.md5 for archive in archives}) == 20
