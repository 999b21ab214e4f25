"""GDAL's settings, and what it says of damaged files."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import rasterio
from rasterio.errors import NotGeoreferencedWarning

_GDAL_OPTIONS = {
    # Do not list a folder of a million tiles for every file in it; world files and .aux.xml are still found.
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    # A truncated JPEG is a mere warning of libjpeg, and the rest of it is grey.
    "GDAL_ERROR_ON_LIBJPEG_WARNING": "TRUE",
    # The quick way to read a PNG notices no truncation: what is missing is whatever lay in memory (GDAL 3.10).
    "GDAL_PNG_WHOLE_IMAGE_OPTIM": "NO",
}
_LONE_FILE_OPTIONS = _GDAL_OPTIONS | {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}
# GDAL's own default is 5 % of the memory of the machine, which a run over scenes would fill. Read once by GDAL, and
# not an option above: rasterio.Env puts the default back for all threads when it ends in one.
os.environ.setdefault("GDAL_CACHEMAX", "64")

# Where rasterio 1.4 logs what GDAL says. At INFO it tells every error twice, which is an exception by then; above
# WARNING it would hide damage from `gdal_messages`.
_LOGGERS = (logging.getLogger("rasterio._err"), logging.getLogger("rasterio._env"))
for _logger in _LOGGERS:
    _logger.setLevel(logging.WARNING)


class _Thread(threading.local):
    """What a thread has set for good while it is in `gdal_for_many`."""

    lone_files = False


_thread = _Thread()


@contextmanager
def gdal(*, sidecars: bool = True) -> Iterator[None]:
    """GDAL as S5 wants it: settings under which damage is an error, and no warning that a tile lies nowhere.

    Args:
        sidecars: Whether files beside a raster are looked for. They always are in the main thread, since rasterio
            makes its settings those of every thread that has none.
    """
    if _thread.lone_files and not sidecars:
        yield
        return
    # Plain PNG and JPEG tiles have no place on Earth, and S5 does not need one. catch_warnings is not safe in
    # threads, hence a filter for this one category; pytest takes filters away between tests, hence the look.
    if ("ignore", None, NotGeoreferencedWarning, None, 0) not in warnings.filters:
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
    in_main = threading.current_thread() is threading.main_thread()
    with rasterio.Env(**(_GDAL_OPTIONS if sidecars or in_main else _LONE_FILE_OPTIONS)):
        yield


@contextmanager
def gdal_for_many() -> Iterator[None]:
    """``gdal(sidecars=False)`` entered once for all of those inside: that takes a third as long as opening a file.

    Not to be held over a `yield`: what is entered inside must be left inside.
    """
    with gdal(sidecars=False):
        before, _thread.lone_files = _thread.lone_files, True
        try:
            yield
        finally:
            _thread.lone_files = before


class _ThreadMessages(logging.Handler):
    """Collects what GDAL logs in one thread."""

    def __init__(self) -> None:
        super().__init__(level=logging.WARNING)
        self.thread = threading.get_ident()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.thread:
            self.messages.append(one_line(record.getMessage()))


@contextmanager
def gdal_messages() -> Iterator[list[str]]:
    """The warnings and errors that GDAL logs in this thread inside the block: libtiff and libjpeg tell of damage so."""
    handler = _ThreadMessages()
    for logger in _LOGGERS:
        logger.addHandler(handler)
    try:
        yield handler.messages
    finally:
        for logger in _LOGGERS:
            logger.removeHandler(handler)


def one_line(message: object) -> str:
    """A message without line breaks."""
    return " ".join(str(message).split())
