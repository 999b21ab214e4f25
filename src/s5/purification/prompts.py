"""What a class is called when a vision-language model is asked for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

DEFAULT_PROMPTS: dict[str, tuple[str, ...]] = {
    "agriculture": ("farmland", "crop field"),
    "background": ("background", "other ground"),
    "bareland": ("bare land", "bare soil"),
    "barren": ("barren land", "bare soil"),
    "building": ("building", "roof of a house"),
    "car": ("car", "parked vehicle"),
    "clutter": ("clutter", "other objects on the ground"),
    "cropland": ("farmland", "crop field"),
    "developed": ("paved ground", "parking lot"),
    "field": ("field", "farmland", "grassland"),
    "forest": ("forest", "trees"),
    "grass": ("grass", "lawn"),
    "impervious": ("impervious surface such as roads and parking lots", "paved ground"),
    "land": ("bare land", "bare soil"),
    "lowveg": ("low vegetation such as grass and shrubs", "lawn"),
    "rangeland": ("rangeland", "grassland with shrubs"),
    "road": ("road", "street"),
    "tree": ("tree", "trees"),
    "vegetation": ("vegetation", "trees and grass"),
    "water": ("water", "river or lake"),
}
_OTHER_NAMES = {
    "agricultural": "agriculture", "agriculturalland": "agriculture", "bare": "bareland", "baresoil": "bareland",
    "buildings": "building", "cars": "car", "clutterbackground": "clutter",
    "crop": "cropland", "developedspace": "developed", "impervioussurface": "impervious",
    "impervioussurfaces": "impervious", "impsurf": "impervious", "imsurf": "impervious", "landunpaved": "land",
    "lowvegetation": "lowveg", "roads": "road", "trees": "tree", "vehicle": "car", "waterbody": "water",
    "woodland": "forest",
}  # fmt: skip


def class_prompts(
    classes: Sequence[str], given: Mapping[str, Sequence[str]] | None = None
) -> dict[str, tuple[str, ...]]:
    """Phrasings of each class: those given, else the defaults of a known name, else the name itself, spelt out.

    Args:
        classes: In the card's order.
        given: The card's `prompts`.

    Raises:
        ValueError: prompts for a class that there is not, or none for one that is named.
    """
    given = given or {}
    unknown = sorted(set(given) - set(classes))
    if unknown:
        raise ValueError(f"prompts: {unknown} are not among the classes {list(classes)}; name classes as the card does")
    empty = [name for name, phrases in given.items() if isinstance(phrases, str) or not [p for p in phrases if p]]
    if empty:
        raise ValueError(f"prompts: {empty} need a list of at least one phrase each; or leave them out")
    return {name: tuple(given[name]) if name in given else _default(name) for name in classes}


def prompts_digest(prompts: Mapping[str, Sequence[str]]) -> str:
    """SHA-256 of the prompts in the order of the classes."""
    return hashlib.sha256(json.dumps([[name, *prompts[name]] for name in prompts]).encode()).hexdigest()


def same_name(name: str) -> str:
    """Letters and digits alone, in lower case, so that "Low veg." and "low_veg" are the same."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


def _default(name: str) -> tuple[str, ...]:
    known = same_name(name)
    return DEFAULT_PROMPTS.get(_OTHER_NAMES.get(known, known), (name.replace("_", " ").replace("-", " "),))
