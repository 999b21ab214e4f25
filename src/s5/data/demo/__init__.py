"""The demo world: made-up landscapes seen from above, with exact labels, objects and the usual defects."""

from s5.data.demo.config import CLASSES, DemoConfig
from s5.data.demo.world import make_demo_world

__all__ = ["CLASSES", "DemoConfig", "make_demo_world"]
