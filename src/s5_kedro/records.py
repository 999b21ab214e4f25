"""From catalog values to the library's records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from s5.types import BandStatistics, LabelSpace

if TYPE_CHECKING:
    import pandas as pd

    from s5.data.loader import SegmentationData
    from s5.data.protocol import EvaluationProtocol


def label_space_of(values: Mapping[str, Any]) -> LabelSpace:
    """The classes, from the `label_space` entry of the catalog."""
    return LabelSpace(tuple(values["classes"]), int(values["ignore_index"]), values["background"])


def protocol_of(label_space: Mapping[str, Any], given: Any = None) -> EvaluationProtocol:
    """The evaluation protocol: the one given as a parameter, else that of the card.

    Raises:
        ValueError: a parameter that is no protocol.
    """
    from s5.data.protocol import read_protocol

    chosen = label_space.get("protocol") if given in (None, "null") else given
    return read_protocol(chosen, label_space["classes"])


def segmentation_data(
    tile_manifest: pd.DataFrame,
    band_statistics: Mapping[str, Any],
    label_space: Mapping[str, Any],
    compute: Mapping[str, Any],
) -> SegmentationData:
    """An ingested dataset, from the catalog entries that hold it."""
    from s5.data.loader import SegmentationData

    return SegmentationData(
        manifest=tile_manifest,
        statistics=BandStatistics.from_dict(band_statistics),
        labels=label_space_of(label_space),
        tile_size=int(label_space["tile_size"]),
        cache_mb=int(compute["cache_mb"]),
        sensors={name: tuple(bands) for name, bands in label_space.get("sensors", {}).items()},
    )


def with_noisy(tile_manifest: pd.DataFrame, noisy_manifest: pd.DataFrame, *, also: str | None = None) -> pd.DataFrame:
    """The tiles that noisy labels are trained on, those to validate on, and the split `also`."""
    import pandas as pd

    clean = tile_manifest[tile_manifest["split"].isin(["val", also])]
    columns = [column for column in tile_manifest.columns if column in noisy_manifest.columns]
    return pd.DataFrame(pd.concat([clean[columns], noisy_manifest[columns]], ignore_index=True))
