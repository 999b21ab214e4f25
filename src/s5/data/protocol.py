"""How a model is measured on a data set: what of an image the network sees at once, and which score counts.

The presets are those of S5 (papers, fine-tuning): Vaihingen and Potsdam on whole tiles of 512 px with mirrored views,
OpenEarthMap resized to 512 px, LoveDA in windows of 512 px that overlap by half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from difflib import get_close_matches
from typing import Any

MODES = ("whole", "resize", "window")
FLIPS = ("horizontal", "vertical", "both")
BLENDS = ("mean", "pyramid")
SCORES = ("miou", "mf1", "macc", "oa", "fwiou", "boundary_miou")


@dataclass(frozen=True)
class EvaluationProtocol:
    """The `protocol` of a dataset card.

    Args:
        mode: The network sees an image ``whole``, ``resize``d to a square of `size` pixels, or in ``window``s.
        size: Side of the square, or of a window, in pixels.
        stride: From one window to the next, 1..size; the last ones are shifted inward.
        blend: Where windows overlap: their ``mean``, or weighted by the distance from the window's side (``pyramid``).
        flips: Mirrored views that are averaged with the image as it is: ``horizontal``, ``vertical``, ``both``.
        scales: Factors by which an image is magnified, one view each; all are averaged.
        score: The number that a table shows: `SCORES`.
        leave_out: Classes that no mean counts, such as the background of iSAID.
        boundary: Width of the boundary for boundary IoU, as a share of the image's diagonal (0.02 in Cheng et al.
            2021); None does not compute it.

    Raises:
        ValueError: a value out of range, or a size that is missing.
    """

    mode: str = "whole"
    size: int | None = None
    stride: int | None = None
    blend: str = "mean"
    flips: tuple[str, ...] = ()
    scales: tuple[float, ...] = (1.0,)
    score: str = "miou"
    leave_out: tuple[str, ...] = ()
    boundary: float | None = None

    def __post_init__(self) -> None:
        for name in ("flips", "scales", "leave_out"):
            given = getattr(self, name)
            object.__setattr__(self, name, (given,) if isinstance(given, str | float | int) else tuple(given))
        for name, known in (("mode", MODES), ("blend", BLENDS), ("score", SCORES)):
            _one_of(name, getattr(self, name), known)
        for flip in self.flips:
            _one_of("flips", flip, FLIPS)
        if len(set(self.flips)) != len(self.flips):
            raise ValueError(f"flips: a view stands twice in {list(self.flips)}; give each once")
        if (self.mode == "whole") != (self.size is None):
            advice = "leave it out" if self.mode == "whole" else "give the side in pixels"
            raise ValueError(f"size: {self.size!r} does not go with mode {self.mode!r}; {advice}")
        if self.size is not None and not _is_whole(self.size, 1):
            raise ValueError(f"size: expected pixels, at least 1, got {self.size!r}")
        if self.stride is not None and self.mode != "window":
            raise ValueError(f"stride: {self.stride!r} goes with mode 'window' alone, not with {self.mode!r}")
        if self.stride is not None and not (_is_whole(self.stride, 1) and self.stride <= (self.size or 0)):
            raise ValueError(f"stride: expected 1..size ({self.size}), got {self.stride!r}")
        if not self.scales or any(isinstance(s, bool) or not 0 < s <= 16 for s in self.scales):
            raise ValueError(f"scales: expected factors over 0 and up to 16, got {list(self.scales)}")
        if self.boundary is not None and not 0 < self.boundary <= 0.5:
            raise ValueError(f"boundary: expected a share of the diagonal in (0, 0.5], got {self.boundary!r}")
        if self.score == "boundary_miou" and self.boundary is None:
            raise ValueError("score: boundary_miou needs 'boundary', such as 0.02")

    @property
    def step(self) -> int:
        """From one window to the next, in pixels."""
        return self.stride or self.size or 1

    @property
    def is_plain(self) -> bool:
        """Whether an image is seen once, as it is."""
        return self.mode == "whole" and not self.flips and self.scales == (1.0,)

    @property
    def sentence(self) -> str:
        """What was done, in words: ``windows of 512 px, one every 256 px; mean of 3 views``."""
        seen = {
            "whole": "whole tiles",
            "resize": f"images resized to {self.size} px",
            "window": f"windows of {self.size} px, one every {self.step} px",
        }[self.mode]
        views = len(self.scales) * (1 + len(self.flips))
        parts = [seen, *([f"mean of {views} views"] if views > 1 else [])]
        parts += [f"means leave out {', '.join(self.leave_out)}"] if self.leave_out else []
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it, and `read_protocol` takes it."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        near = get_close_matches(str(value), known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"{name}: unknown {value!r}; {hint}known are {', '.join(known)}")


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


PRESETS: dict[str, EvaluationProtocol] = {
    "whole": EvaluationProtocol(),
    "vaihingen": EvaluationProtocol(flips=("horizontal", "vertical")),
    "potsdam": EvaluationProtocol(flips=("horizontal", "vertical"), score="mf1"),
    "openearthmap": EvaluationProtocol(mode="resize", size=512),
    "loveda": EvaluationProtocol(mode="window", size=512, stride=256),
    "isaid": EvaluationProtocol(leave_out=("background",)),
}


def read_protocol(given: Any, classes: Sequence[str] | None = None) -> EvaluationProtocol:
    """A protocol from what a card or a parameter says.

    Args:
        given: The name of a preset, a mapping of the fields of `EvaluationProtocol` (with ``preset`` to start from
            one), or None.
        classes: Names that `leave_out` may hold.

    Raises:
        ValueError: an unknown preset or key, a value out of range.
    """
    if given is None:
        return PRESETS["whole"]
    if isinstance(given, str):
        _one_of("protocol", given, tuple(PRESETS))
        protocol = PRESETS[given]
    elif isinstance(given, Mapping):
        known = ["preset", *(f.name for f in fields(EvaluationProtocol))]
        for key in given:
            _one_of("protocol", str(key), tuple(known))
        start = read_protocol(given.get("preset"))
        changed = {key: value for key, value in given.items() if key != "preset"}
        try:
            protocol = replace(start, **changed)
        except ValueError as error:
            raise ValueError(f"protocol.{error}") from error
        except TypeError as error:
            raise ValueError(f"protocol: {error}") from error
    else:
        raise ValueError(f"protocol: expected the name of a preset ({', '.join(PRESETS)}) or a mapping, got {given!r}")
    strange = [name for name in protocol.leave_out if classes is not None and name not in classes]
    if strange:
        raise ValueError(f"protocol.leave_out: {strange[0]!r} is not one of the classes {list(classes or ())}")
    if classes is not None and len(protocol.leave_out) == len(classes):
        raise ValueError("protocol.leave_out: leaves out every class; a mean needs one")
    return protocol
