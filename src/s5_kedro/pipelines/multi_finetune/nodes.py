"""Fine-tuning on several data sets at once."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from s5_kedro.cards import dataset_entries
from s5_kedro.parameters import configure
from s5_kedro.project import find_card, project_root
from s5_kedro.records import protocol_of, segmentation_data
from s5_kedro.tracking import MetricsLog


def ingest_datasets(datasets: Any, ingestion: dict[str, Any], seed: int) -> tuple[Any, Any, dict[str, Any]]:
    """Read every card into one manifest and one quarantine, with a column `dataset`, and what else is known of each."""
    import pandas as pd

    from s5.data.ingest import IngestionConfig, ingest

    config = configure(IngestionConfig, ingestion, "ingestion")
    manifests, quarantines, spaces = [], [], {}
    for name, entry in dataset_entries(datasets).items():
        found = ingest(find_card(entry.card), config, seed=seed, work_dir=project_root() / "data/02_intermediate")
        manifests.append(found.manifest.assign(dataset=name))
        quarantines.append(found.quarantine.assign(dataset=name))
        space = {
            "name": found.card.name,
            **asdict(found.labels),
            "tile_size": config.tile_size,
            "protocol": found.card.protocol.to_dict(),
        }
        spaces[name] = {"label_space": space, "band_statistics": found.statistics.to_dict()}
    return pd.concat(manifests, ignore_index=True), pd.concat(quarantines, ignore_index=True), spaces


def finetune_datasets(
    multi_manifest: Any,
    multi_spaces: dict[str, Any],
    multi_finetune: dict[str, Any],
    model: dict[str, Any],
    compute: dict[str, Any],
    seed: int,
) -> tuple[dict[str, Any], Any]:
    """Train every mode with every seed; returns the pointers and the histories."""
    import pandas as pd

    from s5_kedro.pipelines.multi_finetune.config import MultiFinetuneConfig
    from s5_kedro.pipelines.multi_finetune.study import MultiStudy

    config = configure(MultiFinetuneConfig, multi_finetune, "multi_finetune")
    study = MultiStudy(data_of(multi_manifest, multi_spaces, compute), config, model, compute)
    runs = [study.run(mode, one) for one in range(seed, seed + config.seeds) for mode in config.modes()]
    rows = []
    for run in runs:
        for made in run["models"]:
            head = {"mode": run["mode"], "seed": run["seed"], "datasets": "+".join(made["datasets"])}
            rows += [{**head, **row} for row in made.pop("history")]
    return {"runs": runs}, pd.DataFrame(rows)


def evaluate_datasets(
    multi_manifest: Any,
    multi_spaces: dict[str, Any],
    multi_models: dict[str, Any],
    multi_finetune: dict[str, Any],
    compute: dict[str, Any],
) -> dict[str, Any]:
    """The table: a row a mode and seed, with the scores of each data set by its own card's protocol."""
    from s5_kedro.pipelines.multi_finetune.config import MultiFinetuneConfig
    from s5_kedro.pipelines.multi_finetune.study import evaluate_run

    config = configure(MultiFinetuneConfig, multi_finetune, "multi_finetune")
    data = data_of(multi_manifest, multi_spaces, compute)
    protocols = {name: protocol_of(of["label_space"]) for name, of in multi_spaces.items()}
    rows = [evaluate_run(run, data, protocols, config, compute) for run in multi_models["runs"]]
    for row in rows:
        with MetricsLog(f"multi_evaluation.{row['mode']}") as log:
            log({"mean_miou": row["mean_miou"], **{n: of["miou"] for n, of in row["datasets"].items()}}, row["seed"])
    return {"split": config.split, "protocols": {n: of.to_dict() for n, of in protocols.items()}, "rows": rows}


def data_of(multi_manifest: Any, multi_spaces: dict[str, Any], compute: dict[str, Any]) -> dict[str, Any]:
    """Name -> data set, from the catalog entries that hold them all."""
    return {
        name: segmentation_data(
            multi_manifest[multi_manifest["dataset"] == name].reset_index(drop=True),
            of["band_statistics"],
            of["label_space"],
            compute,
        )
        for name, of in multi_spaces.items()
    }
