"""Versioned datasets that are whole or absent, with previews for kedro-viz."""

from s5_kedro.datasets.arrays import NpyDataset
from s5_kedro.datasets.atomic import AtomicDataset
from s5_kedro.datasets.documents import HTMLDataset, JSONDataset, TextDataset
from s5_kedro.datasets.figures import FigureDataset
from s5_kedro.datasets.pointers import ModelPointerDataset
from s5_kedro.datasets.tables import GeoParquetDataset, ParquetDataset
from s5_kedro.datasets.vectors import GeoPackageDataset

__all__ = [
    "AtomicDataset",
    "FigureDataset",
    "GeoPackageDataset",
    "GeoParquetDataset",
    "HTMLDataset",
    "JSONDataset",
    "ModelPointerDataset",
    "NpyDataset",
    "ParquetDataset",
    "TextDataset",
]
