"""Matches the names of recordings in two lists."""

import pathlib
from collections.abc import Iterable

from mfl_jax.data.spelling import normalise_name
from mfl_jax.errors import InputError

AUDIO_SUFFIXES = (
    ".wav", ".wave", ".w64", ".rf64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".caf", ".au",
    ".m4a", ".aac", ".wma",
)  # fmt: skip
"""Files in a folder with these suffixes are recordings. Unreadable formats, the last row, are included to be reported."""
# Listed, because a name such as `Y0_350.000_360.000` contains dots that do not start a suffix.
SUFFIXES = (*AUDIO_SUFFIXES, ".mp4", ".txt", ".tsv", ".ann", ".csv", ".lab", ".json", ".jams")
"""Suffixes of audio files and lists; matching ignores them."""


def match_recordings(
    estimated: Iterable[str], reference: Iterable[str], *, require_all: bool = True, kind: str = "estimated"
) -> dict[str, str]:
    """Finds the reference recording of each estimated one.

    A name that is in the reference matches itself. Two of the remaining names match if one of them ends with the other, folder
    by folder, ignoring the suffix of an audio file or of a list and the Unicode form of letters: `a001.txt` and `street/a001`
    match `audio/street/a001.wav`, `home/a001.wav` does not.

    Args:
      estimated: names of recordings.
      reference: names of recordings.
      require_all: whether an estimated name without a match is an error; otherwise it is left out.
      kind: of `estimated`, for error messages.

    Returns:
      Estimated name -> name in the reference.

    Raises:
      InputError: a name has no match (if `require_all`) or several, or two names have the same match.
    """
    estimated, by_spelling = list(estimated), {normalise_name(name): name for name in reference}
    matches = {name: by_spelling[normalise_name(name)] for name in estimated if normalise_name(name) in by_spelling}
    matched_by: dict[str, str] = {}
    for name, match in matches.items():
        _check_unmatched(name, match, matched_by, kind)
    unmatched_by_file: dict[str, list[str]] = {}
    for name in by_spelling.values():
        if name not in matched_by:
            unmatched_by_file.setdefault(_file_name(name), []).append(name)
    for name in estimated:
        if name in matches:
            continue
        parts = _split_name(name)
        candidates = [other for other in unmatched_by_file.get(_file_name(name), []) if _share_ending(parts, _split_name(other))]
        if not candidates:
            if require_all:
                raise InputError(f"the {kind} recording {name!r} is not in the reference")
            continue
        if len(candidates) > 1:
            raise InputError(
                f"the {kind} recording {name!r} matches both {candidates[0]!r} and {candidates[1]!r} of the reference; "
                "include the folder in its name"
            )
        _check_unmatched(name, candidates[0], matched_by, kind)
        matches[name] = candidates[0]
    return matches


def _check_unmatched(name: str, match: str, matched_by: dict[str, str], kind: str) -> None:
    """Notes that a name has found its match; refuses the second name that finds it."""
    if (other := matched_by.setdefault(match, name)) != name:
        raise InputError(f"the {kind} recordings {other!r} and {name!r} both match {match!r} of the reference")


def _split_name(name: str) -> tuple[str, ...]:
    """Splits a name into its folders and its file, without the suffix."""
    path = pathlib.PurePosixPath(normalise_name(name).replace("\\", "/"))
    return path.with_suffix("").parts if path.suffix.lower() in SUFFIXES else path.parts


def _file_name(name: str) -> str:
    return (_split_name(name) or ("",))[-1]


def _share_ending(parts: tuple[str, ...], other_parts: tuple[str, ...]) -> bool:
    length = min(len(parts), len(other_parts))
    return parts[-length:] == other_parts[-length:]
