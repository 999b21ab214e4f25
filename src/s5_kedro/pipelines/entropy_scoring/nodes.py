"""How sure the seed model is of every unlabelled tile, and where each tile lies in its feature space."""

from __future__ import annotations

from typing import Any

from s5_kedro.parameters import configure
from s5_kedro.project import project_root
from s5_kedro.records import segmentation_data

_READ_ONCE = {"cache_mb": 0}  # each tile is read once: a cache would only grow with the number of tiles


def score_entropy(
    tile_manifest: Any,
    band_statistics: dict[str, Any],
    label_space: dict[str, Any],
    seed_model: dict[str, Any],
    entropy_scoring: dict[str, Any],
    compute: dict[str, Any],
) -> tuple[Any, Any]:
    """Entropy and embedding of every unlabelled tile; returns tile_scores and tile_embeddings."""
    from s5 import selection
    from s5.data.manifest import files_fingerprint
    from s5.engine import ComputeConfig, resolve_compute
    from s5.engine.compute import share_of

    data = segmentation_data(tile_manifest, band_statistics, label_space, {**compute, **_READ_ONCE})
    machine = configure(ComputeConfig, compute, "compute")
    where = {**_where(compute), "precision": resolve_compute(machine).precision}  # the same on every machine
    config = configure(selection.ScoringConfig, entropy_scoring, "entropy_scoring", **where)
    model, reader = _open(seed_model), data.split("unlabeled")
    fingerprint = data.fingerprint() + files_fingerprint(tile_manifest)
    key = selection.scoring_key(fingerprint, seed_model["sha256"], config, config.precision)
    folder = project_root() / "data/04_feature/scoring" / key
    return selection.score_in_parts(
        model, reader, data.statistics, data.labels, config, folder, share=share_of(machine.part),
        backend=scoring_backend(machine),
    )  # fmt: skip


def scoring_backend(machine: Any) -> Any:
    """Who scores parts, as ``compute.backend`` says; None for this process."""
    from s5.engine import resolve_compute
    from s5.selection.on_ray import RayBackend

    if machine.backend == "local":
        return None
    on_gpu = resolve_compute(machine).device.type == "cuda"
    return RayBackend(machine.devices, machine.threads or 1, on_gpu, machine.ray_address)


def embed_tiles(
    tile_manifest: Any,
    band_statistics: dict[str, Any],
    label_space: dict[str, Any],
    seed_model: dict[str, Any],
    entropy_scoring: dict[str, Any],
    compute: dict[str, Any],
) -> Any:
    """Embeddings of the labelled tiles, which diversity sampling clusters."""
    from s5 import selection

    data = segmentation_data(tile_manifest, band_statistics, label_space, {**compute, **_READ_ONCE})
    config = configure(selection.ScoringConfig, entropy_scoring, "entropy_scoring", **_where(compute))
    return selection.embed_tiles(_open(seed_model), data.split("labeled"), data.statistics, config)


def _open(pointer: dict[str, Any] | None) -> Any:
    from s5.models import load_model, open_pointer

    if pointer is None:
        raise FileNotFoundError("seed_model: there is none yet; make it with kedro run --pipelines=seed_training")
    model, _ = load_model(open_pointer(pointer, project_root()))
    return model


def _where(compute: dict[str, Any]) -> dict[str, Any]:
    return {key: compute[key] for key in ("device", "precision", "threads")}
