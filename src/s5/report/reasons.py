"""Reasons without the numbers and names that differ from tile to tile, so that they can be counted."""

from __future__ import annotations

# What a selection reason contains -> what it is counted as; the first that fits decides.
_KINDS = (
    ("beyond its quota", "taken in place of a cluster that ran short"),
    ("not among the tiles taken", "not among the tiles taken"),
    ("by lowest entropy of all", "among the most certain of all tiles"),
    ("by lowest entropy", "among the most certain of its cluster"),
    ("at random of all", "drawn at random"),
    ("at random", "drawn at random from its cluster"),
    ("by BADGE", "uncertain and unlike the others taken"),
    ("as far from", "far from all labelled and taken tiles"),
    ("near duplicate", "near duplicate of a selected tile"),
    ("cluster full", "its cluster's quota is full"),
)


def kind_of(reason: str) -> str:
    """The kind that a reason belongs to: a known one, else what stands before its first colon, bracket or semicolon."""
    for part, kind in _KINDS:
        if part in reason:
            return kind
    for mark in (": ", " (", "; "):
        reason = reason.split(mark)[0]
    return reason
