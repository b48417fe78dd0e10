"""Downloads, checks and unpacks the audio of the seven TUT data sets (17.5 GB of archives, about as much again unpacked).

    python datasets/tut_scenes_events/fetch.py --manual_dir=DIR [--keep_archives]

After an interruption, run it again: it skips archives that are downloaded and unpacked. It needs access to zenodo.org. It does
not download the label lists; see docs/paper.md.
"""

import csv
import pathlib
import shutil
import sys
import zipfile
from collections.abc import Sequence
from typing import NamedTuple

import pooch
import requests
import rich.progress
from absl import app, flags

from mfl_jax.errors import InputError
from mfl_jax.runtime.progress import progress_bar

URL = "https://zenodo.org/records/{record}/files/{file}?download=1"
ATTEMPTS = 5


class Archive(NamedTuple):
    """A file of a Zenodo record.

    Attributes:
      record: number of the record.
      file: name.
      bytes: size.
      md5: checksum.
    """

    record: str
    file: str
    bytes: int
    md5: str


def list_archives() -> list[Archive]:
    """Returns the published archives."""
    with open(pathlib.Path(__file__).parent / "archives.tsv", newline="") as table:
        return [
            Archive(row["record"], row["file"], int(row["bytes"]), row["md5"]) for row in csv.DictReader(table, delimiter="\t")
        ]


def fetch(wanted: Sequence[Archive], manual_dir: pathlib.Path, *, url: str = URL, keep_archives: bool = False) -> None:
    """Downloads archives and unpacks them.

    An archive gets its name after its MD5 sum has been checked. Interrupted downloads are tried `ATTEMPTS` times. Each unpacked
    file is renamed when complete, and a file `ARCHIVE.done` marks an unpacked archive.

    Args:
      wanted: archives to download.
      manual_dir: folder to unpack into.
      url: address of an archive, with the fields {record} and {file}.
      keep_archives: whether to keep the archives in `manual_dir/archives`.

    Raises:
      InputError: an archive is not available, or differs from the published one.
    """
    store = manual_dir / "archives"
    store.mkdir(parents=True, exist_ok=True)
    bars = progress_bar("", rich.progress.DownloadColumn(), rich.progress.TransferSpeedColumn())
    with bars:
        for number, archive in enumerate(wanted, 1):
            done = store / f"{archive.file}.done"
            if done.is_file() and done.read_text().strip() == archive.md5:
                bars.console.print(f"{number}/{len(wanted)} {archive.file}: already done")
                continue
            task = bars.add_task(f"{number}/{len(wanted)} {archive.file}", total=archive.bytes)
            path = _download(archive, store, url, _Bar(bars, task))
            bars.update(task, description=f"{number}/{len(wanted)} {archive.file}, unpacking")
            unpack(path, manual_dir)
            part = done.with_suffix(".part")
            part.write_text(archive.md5 + "\n")
            part.rename(done)
            if not keep_archives:
                path.unlink()
            bars.update(task, description=f"{number}/{len(wanted)} {archive.file}", completed=archive.bytes)


class _Bar:
    """Shows the progress of pooch in a progress bar of rich; pooch sets `total` and calls the methods."""

    def __init__(self, bars: rich.progress.Progress, task: rich.progress.TaskID):
        self.bars, self.task, self.total = bars, task, None

    def update(self, count: int) -> None:
        self.bars.advance(self.task, count)

    def reset(self) -> None:
        self.bars.reset(self.task)

    def close(self) -> None:
        pass


def _download(archive: Archive, store: pathlib.Path, url: str, bar: _Bar) -> pathlib.Path:
    downloader = pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16, timeout=60)
    source = url.format(record=archive.record, file=archive.file)
    registry = pooch.create(
        store,
        base_url="",
        registry={archive.file: f"md5:{archive.md5}"},
        urls={archive.file: source},
        retry_if_failed=ATTEMPTS - 1,
    )
    try:
        return pathlib.Path(registry.fetch(archive.file, downloader=downloader))
    except requests.exceptions.RequestException as error:
        raise InputError(f"{source}: not available after {ATTEMPTS} attempts ({error}); run the same command again") from None
    except ValueError:
        raise InputError(f"{source}: MD5 sum was not the published {archive.md5} in {ATTEMPTS} downloads") from None


def unpack(archive: pathlib.Path, folder: pathlib.Path) -> None:
    """Unpacks a zip archive.

    Raises:
      InputError: the archive is damaged, or one of its files would be outside the folder.
    """
    root = folder.resolve()
    try:
        with zipfile.ZipFile(archive) as packed:
            for member in packed.infolist():
                target = (root / member.filename).resolve()
                if not target.is_relative_to(root):
                    raise InputError(f"{archive}: {member.filename!r} would be unpacked outside {root}; unpacked nothing")
            for member in packed.infolist():
                target = root / member.filename
                if member.is_dir() or (target.is_file() and target.stat().st_size == member.file_size):
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                part = target.with_name(target.name + ".part")
                with packed.open(member) as source, open(part, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                part.rename(target)
    except zipfile.BadZipFile as error:
        raise InputError(f"{archive}: not a complete zip archive ({error})") from None


def main(arguments: Sequence[str]) -> None:
    """Downloads all archives."""
    if len(arguments) > 1:
        raise app.UsageError(f"unexpected arguments: {' '.join(arguments[1:])}")
    try:
        fetch(list_archives(), pathlib.Path(_MANUAL_DIR.value).expanduser(), keep_archives=_KEEP_ARCHIVES.value)
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; run the same command again to continue")


if __name__ == "__main__":
    _MANUAL_DIR = flags.DEFINE_string("manual_dir", None, "Folder for the TUT recordings.", required=True)
    _KEEP_ARCHIVES = flags.DEFINE_bool("keep_archives", False, "Keep the archives after unpacking.")
    app.run(main)
