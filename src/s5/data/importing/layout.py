"""Paths of an archive as patterns with named parts: ``Train/{scene}/images_png/{id}.png``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

_PART = re.compile(r"\{(?P<name>[a-z]+)(?::(?P<regex>[^{}]+))?\}")


@dataclass(frozen=True)
class Pattern:
    """A relative path whose parts in braces stand for what differs between files.

    ``{id}`` matches any text without a slash, ``{id:P[0-9]+}`` what its regular expression matches; a name that comes
    again matches the same text. ``**`` is any number of folders.
    """

    text: str

    def find(self, root: Path) -> Iterator[tuple[Path, dict[str, str]]]:
        """Every file below `root` that matches, in the order of their paths, with the text of each part."""
        for path in sorted(root.glob(self._glob)):
            found = self._regex.fullmatch(path.relative_to(root).as_posix())
            if found is not None and path.is_file():
                yield path, found.groupdict()

    def fill(self, parts: Mapping[str, str]) -> str:
        """The path with its parts filled in.

        Raises:
            KeyError: a part that is not given.
        """
        return _PART.sub(lambda part: parts[part["name"]], self.text)

    @property
    def shown(self) -> str:
        """The path as a message shows it: ``Train/<scene>/images_png/<id>.png``."""
        return _PART.sub(lambda part: f"<{part['name']}>", self.text)

    @cached_property
    def _glob(self) -> str:
        # of two parts side by side one star is enough: two in a row would be folders
        return re.sub(r"\*{3,}|(?<!/)\*\*|\*\*(?!/)", "*", _PART.sub("*", self.text))

    @cached_property
    def _regex(self) -> re.Pattern[str]:
        seen: set[str] = set()
        pattern, at = "", 0
        for part in _PART.finditer(self.text):
            pattern += _literal(self.text[at : part.start()])
            name = part["name"]
            pattern += f"(?P={name})" if name in seen else f"(?P<{name}>{part['regex'] or '[^/]+'})"
            seen.add(name)
            at = part.end()
        return re.compile(pattern + _literal(self.text[at:]))


def fill_template(template: str, parts: Mapping[str, str]) -> str:
    """A template such as ``{scene}_{id}`` with the parts of a file filled in."""
    return Pattern(template).fill(parts)


def _literal(text: str) -> str:
    return "(?:[^/]+/)*".join(re.escape(piece) for piece in text.split("**/"))
