"""Lists the files below a folder, follows links to folders, and skips nothing in silence."""

import os
import pathlib
from collections.abc import Iterator


def walk_folder(folder: pathlib.Path) -> Iterator[tuple[pathlib.Path, bool]]:
    """Lists the visible files at any depth.

    Links to folders are followed after all other folders. Every real folder is listed once, so links may form circles; a link to
    a folder above itself is left out. Files and folders whose names start with a dot are left out too.

    Args:
      folder: to start in.

    Yields:
      Paths below `folder`, and whether each is a file. False for a folder that can't be listed, and for a link that leads nowhere
      and may have led to a folder, because its name has no suffix.
    """
    folders, links = [folder], list[pathlib.Path]()
    listed: set[tuple[int, int]] = set()
    while folders or links:
        current = folders.pop() if folders else links.pop(0)
        try:
            stat = current.stat()
            if (stat.st_dev, stat.st_ino) in listed:
                continue
            listed.add((stat.st_dev, stat.st_ino))
            entries = sorted(os.scandir(current), key=lambda entry: entry.name)
        except FileNotFoundError:
            yield current, bool(current.suffix)
            continue
        except OSError:
            yield current, False
            continue
        for entry in entries:
            path = current / entry.name
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                folders.append(path)
            elif not entry.is_symlink() or os.path.isfile(path):
                yield path, True
            elif not _leads_upwards(path):
                links.append(path)


def _leads_upwards(link: pathlib.Path) -> bool:
    """Returns whether a link leads to a folder that holds the link."""
    return pathlib.Path(os.path.realpath(link.parent)).is_relative_to(os.path.realpath(link))
