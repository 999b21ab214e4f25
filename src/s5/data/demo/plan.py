"""Which scenes the demo world has, where they lie, and how each is made."""

from __future__ import annotations

from dataclasses import dataclass

from s5.data.demo.config import REGIONS, DemoConfig
from s5.data.demo.scene import Scene, make_scene

_SPLITS = ("labeled", "val", "test", "unlabeled")
# How far the look of a scene may move towards another region's: the unlabelled ones fill the space between regions.
_REACH = {"labeled": 0.15, "val": 0.30, "test": 0.30, "unlabeled": 0.50}
_THEMES = {
    "labeled": ("riverside", "village", "lakeside"),
    "val": ("village", "lakeside", "woodland", "riverside", "town", "farmland"),
    "test": ("lakeside", "village", "town", "woodland", "riverside", "farmland"),
    "unlabeled": ("village", "farmland", "lakeside", "woodland", "riverside", "town"),
}
_COLUMNS = 6  # scenes side by side in a region

Transform = tuple[float, float, float, float, float, float]


@dataclass(frozen=True)
class ScenePlan:
    """A scene that is to be made. `transform` is the affine (a, b, c, d, e, f) of its grid in the world's CRS."""

    split: str
    name: str
    region: int
    theme: str
    size: int
    seed: tuple[int, ...]
    transform: Transform

    @property
    def region_name(self) -> str:
        return REGIONS[self.region]

    def make(self) -> Scene:
        return make_scene(self.seed, region=self.region, theme=self.theme, size=self.size, reach=_REACH[self.split])


def plan_world(config: DemoConfig) -> list[ScenePlan]:
    """All scenes of the world; those of ``tiles=4`` start with those of ``tiles=1``."""
    plans = []
    for order, split in enumerate(_SPLITS):
        size = {"unlabeled": config.scene_size}.get(split) or getattr(config, f"{split}_size")
        count = getattr(config, f"{split}_scenes") * (config.tiles if split == "unlabeled" else 1)
        for region in config.labeled_regions if split == "labeled" else range(config.regions):
            for index in range(count):
                themes = _THEMES[split]
                plans.append(
                    ScenePlan(
                        split=split,
                        name=f"{REGIONS[region]}_{index:02d}",
                        region=region,
                        theme=themes[(index + 2 * region) % len(themes)],
                        size=size,
                        seed=(config.seed, region, order, index),
                        transform=_place(config, region, order, index),
                    )
                )
    return plans


def _place(config: DemoConfig, region: int, order: int, index: int) -> Transform:
    """Regions lie 20 km apart; within one, scenes stand on a grid with at least a scene's width between them."""
    largest = max(config.scene_size, config.labeled_size, config.val_size, config.test_size)
    pitch = 2 * largest * config.gsd
    row = 40 * order + index // _COLUMNS
    x, y = 500_000 + 20_000 * region + pitch * (index % _COLUMNS), 5_300_000 + 9_000 * region - pitch * row
    return (config.gsd, 0.0, float(x), 0.0, -config.gsd, float(y))
