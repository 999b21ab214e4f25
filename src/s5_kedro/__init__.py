"""The Kedro project around the `s5` library: pipelines, catalog, tracking. Thin on purpose."""

__version__ = "0.1.0"
