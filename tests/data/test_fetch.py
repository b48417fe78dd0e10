"""Downloading the archives, against a local server that breaks off, and unpacking them."""

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
fetching = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fetching)


def zipped(**files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name.replace("__", "/"), text)
    return content.getvalue()


@pytest.fixture
def server():
    """Serves {path: bytes}; `breaks[path]` times it closes the connection halfway through the body."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0]
            self.server.asked.append(path)
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
        server.files, server.breaks, server.asked = {}, {}, []
        server.url = f"http://127.0.0.1:{server.server_port}/{{record}}/{{file}}?download=1"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """The pauses between attempts would be seconds."""
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)


def offered(server, record, file, content, md5=None):
    server.files[f"/{record}/{file}"] = content
    return fetching.Archive(record, file, len(content), md5 or hashlib.md5(content).hexdigest())


def test_archives_are_downloaded_checked_and_unpacked_once(server, tmp_path):
    wanted = [
        offered(server, "1", "a.zip", zipped(TUT__audio__x="x" * 5000)),
        offered(server, "2", "b.zip", zipped(TUT__audio__y="y")),
    ]
    fetching.fetch(wanted, tmp_path, url=server.url)
    assert (tmp_path / "TUT" / "audio" / "x").read_text() == "x" * 5000
    assert (tmp_path / "TUT" / "audio" / "y").read_text() == "y"
    assert sorted(path.name for path in (tmp_path / "archives").iterdir()) == ["a.zip.done", "b.zip.done"]
    asked = len(server.asked)
    fetching.fetch(wanted, tmp_path, url=server.url)
    assert len(server.asked) == asked == 2


def test_a_download_that_breaks_off_is_tried_again(server, tmp_path):
    wanted = [offered(server, "1", "a.zip", zipped(x="x" * 100_000))]
    server.breaks["/1/a.zip"] = 3
    fetching.fetch(wanted, tmp_path, url=server.url)
    assert len(server.asked) == 4 and (tmp_path / "x").stat().st_size == 100_000


def test_a_server_that_always_breaks_off_leaves_what_was_whole_before(server, tmp_path):
    wanted = [offered(server, "1", "a.zip", zipped(x="x")), offered(server, "2", "b.zip", zipped(y="y" * 100_000))]
    server.breaks["/2/b.zip"] = 99
    with pytest.raises(InputError, match=r"2/b.zip.*run the same command again"):
        fetching.fetch(wanted, tmp_path, url=server.url)
    assert not (tmp_path / "y").exists() and not (tmp_path / "archives" / "b.zip").exists()
    server.breaks.clear()
    server.asked.clear()
    fetching.fetch(wanted, tmp_path, url=server.url)
    assert server.asked == ["/2/b.zip"] and (tmp_path / "y").exists()


def test_an_archive_kept_and_whole_is_not_downloaded_again(server, tmp_path):
    wanted = [offered(server, "1", "a.zip", zipped(x="x"))]
    fetching.fetch(wanted, tmp_path, url=server.url, keep_archives=True)
    (tmp_path / "archives" / "a.zip.done").unlink()  # as after a break during unpacking
    fetching.fetch(wanted, tmp_path, url=server.url, keep_archives=True)
    assert server.asked == ["/1/a.zip"]


def test_another_md5_sum_is_refused(server, tmp_path):
    with pytest.raises(InputError, match="another MD5 sum than the published"):
        fetching.fetch([offered(server, "1", "a.zip", zipped(x="x"), md5="0" * 32)], tmp_path, url=server.url)
    assert not (tmp_path / "x").exists() and not list((tmp_path / "archives").iterdir())


def test_a_missing_archive_is_named(server, tmp_path):
    with pytest.raises(InputError, match=r"1/none.zip"):
        fetching.fetch([fetching.Archive("1", "none.zip", 1, "0" * 32)], tmp_path, url=server.url)


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside"])
def test_nothing_is_unpacked_outside_of_the_folder(tmp_path, name):
    archive = tmp_path / "evil.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("good", "good")
        file.writestr(name, "evil")
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True)
    with pytest.raises(InputError, match="outside of"):
        fetching.unpack(archive, folder)
    assert not list(folder.iterdir()) and not list(tmp_path.rglob("outside"))


def test_a_broken_archive_is_named(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"a.zip: not a whole zip archive"):
        fetching.unpack(tmp_path / "a.zip", tmp_path)


def test_the_published_archives_are_listed():
    archives = fetching.archives()
    assert len({archive.record for archive in archives}) == 7 and len(archives) == 20
    assert sum(archive.bytes for archive in archives) == 17_447_780_310
    assert all(len(archive.md5) == 32 and archive.file.endswith(".zip") for archive in archives)
    assert len({archive.md5 for archive in archives}) == 20
