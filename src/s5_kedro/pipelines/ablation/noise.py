"""What each layer of a network keeps of pretraining on noisy labels."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from s5_kedro.parameters import configure
from s5_kedro.pipelines.ablation.config import AGAIN, CARD, CLEAN, RANDOM, SIMSIAM, SUPERVISED, AblationConfig
from s5_kedro.pipelines.ablation.study import LAYER_COLUMNS, Study, child_run
from s5_kedro.tracking import MetricsLog

if TYPE_CHECKING:
    import pandas as pd

    from s5.data.loader import SegmentationData

_log = logging.getLogger(__name__)
_GROUPS = ("model", "finetune", "evaluation", "compute")  # what a run depends on, beside ablation.noise
_PLACE = ["image", "row", "col"]
MODES = ("tuned", "frozen")


class NoiseStudy(Study):
    """Networks from one random start, pretrained on clean labels, on noisy ones and on none.

    Of each start: every layer's linear CKA to the network pretrained on clean labels from the same random start
    with the same draws, a linear probe of every layer, and fine-tuning on the labelled tiles of what lies up to a
    depth, trained on or frozen, the rest from a random start (Yosinski et al., NeurIPS 2014).
    """

    def settings(self) -> dict[str, Any]:
        noise = {key: value for key, value in self.parameters["ablation"].get("noise", {}).items() if key != "kinds"}
        return {**{group: self.parameters[group] for group in _GROUPS}, "noise": noise}

    @cached_property
    def config(self) -> Any:
        return configure(AblationConfig, self.parameters["ablation"], "ablation").noise

    def starts(self) -> list[str]:
        return [SUPERVISED, RANDOM, SIMSIAM, CLEAN, AGAIN, *self.config.names()]

    def tables(self, seeds: Iterable[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """A row a fine-tuned network, and a row a layer."""
        import pandas as pd

        found = [self.run(start, seed) for seed in seeds for start in self.starts()]
        runs, layers = ([row for one in found for row in one[place]] for place in (0, 1))
        return pd.DataFrame(runs), pd.DataFrame(layers, columns=list(LAYER_COLUMNS))

    def run(self, start: str, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Everything of one start and seed: rows of the table of runs, and of the table of layers."""
        found = self.kept(f"noise-{start}-{seed}", lambda: self._run(start, seed))
        return found["runs"], found["layers"]

    def _run(self, start: str, seed: int) -> dict[str, Any]:
        with child_run(start, seed):
            pointer, rate = self._pretrained(start, seed)
            layers = [] if start == SUPERVISED else self._layers(start, seed, pointer)
            rows = [self._row(start, seed, rate, *way) for way in self._ways(start)]
            with MetricsLog("ablation") as log:
                for row in rows:
                    log({f"{row['taken']}.{row['mode']}.miou".replace(" ", "_"): row["miou"]}, 0)
        return {"runs": rows, "layers": layers}

    def _ways(self, start: str) -> list[tuple[str, str]]:
        """What is taken over, and what becomes of it: (name, mode)."""
        if start in (SUPERVISED, RANDOM):
            return [("nothing", "tuned")]
        if start == AGAIN:
            return []
        taken = [name for name in self._cuts if start != SIMSIAM or self._cuts[name]["decoder"] == "retrained"]
        return [(name, mode) for name in taken for mode in MODES]

    @cached_property
    def _cuts(self) -> dict[str, dict[str, Any]]:
        """Depth up to which weights are taken over -> what `transfer` is told; the mode of the parts is left open."""
        from s5.models import create_model, network_depths

        labels, bands = self.data.labels, self.data.statistics.bands
        settings = {**self.parameters["model"], "encoder_weights": None}
        layers = network_depths(create_model(**settings, classes=labels.num_classes, bands=len(bands))).layers
        depths = sorted({-(-layers * part // self.config.cuts) for part in range(1, self.config.cuts)})
        rest = {"decoder": "retrained", "head": "retrained"}
        within = {f"layer {depth}": {**rest, "encoder_layers": depth} for depth in depths}
        return {**within, "encoder": rest, "all but head": {"decoder": None, "head": "retrained"}}

    def _row(self, start: str, seed: int, rate: float | None, taken: str, mode: str) -> dict[str, Any]:
        pointer = self.kept(f"noise-{start}-{seed}-{taken}-{mode}", lambda: self._finetuned(start, seed, taken, mode))
        _log.info("ablation: %s with seed %d, %s %s, has %.2f mIoU", start, seed, taken, mode, pointer["miou"])
        arm = {"study": "noise", "arm": start, "seed": seed, "taken": taken, "mode": mode, "noise_rate": rate}
        return {**arm, **pointer}

    def _finetuned(self, start: str, seed: int, taken: str, mode: str) -> dict[str, Any]:
        """Scores of a fine-tuned network; its weights are not kept, there would be hundreds."""
        from s5.finetuning import FinetuneConfig, SupervisedConfig, finetune

        values = self._finetuning
        if taken == "nothing":
            steps = values["steps"] + (self.config.steps if start == SUPERVISED else 0)
            config = configure(SupervisedConfig, {**values, "steps": steps}, "finetune")
            pointer = self.supervised(config, "ablation_noise_supervised", seed)
        else:
            cut = {"encoder": mode, **self._cuts[taken]}
            transfer = {part: mode if value is None else value for part, value in cut.items()}
            with MetricsLog("finetune") as log:
                pointer = finetune(
                    self.data, self.model, configure(FinetuneConfig, {**values, "transfer": transfer}, "finetune"),
                    self.compute, name="ablation_noise_finetuned", project=self.project, seed=seed,
                    init=self._pretrained(start, seed)[0], log=log,
                ).pointer  # fmt: skip
        scores = self.scores(pointer)
        shutil.rmtree((self.project / pointer["path"]).parent)
        return scores

    @cached_property
    def _finetuning(self) -> dict[str, Any]:
        """The group `finetune` at the study's learning rate: what is retrained needs more than what is tuned."""
        values = {key: value for key, value in self.parameters["finetune"].items() if key not in ("transfer", "init")}
        return {**values, "optimizer": {**values["optimizer"], "lr": self.config.lr}}

    def _pretrained(self, start: str, seed: int) -> tuple[dict[str, Any], float | None]:
        """Pointer to the pretrained network (nothing where there is none), and the share of wrong labels."""
        if start in (SUPERVISED, RANDOM):
            return {}, None
        found = self.kept(f"noise-{start}-{seed}-pretrained", lambda: self._pretrain(start, seed))
        return found["pointer"], found["noise_rate"]

    def _pretrain(self, start: str, seed: int) -> dict[str, Any]:
        from s5.finetuning import SupervisedConfig
        from s5.noisy import SimSiamConfig, pretrain_simsiam

        own = {name: getattr(self.config, name) for name in ("steps", "batch_size")}
        shared = {name: self._finetuning[name] for name in ("augmentation", "strong")}
        optimizer = {**self._finetuning["optimizer"], "layer_decay": 1.0}
        data, rate = self._labelled(start, seed)
        if start == SIMSIAM:
            config = configure(SimSiamConfig, {**own, **shared, "optimizer": optimizer}, "ablation.noise")
            with MetricsLog("simsiam") as log:
                pointer = pretrain_simsiam(
                    data, self.model, config, self.compute, name="ablation_noise_simsiam", project=self.project,
                    seed=seed, split="labeled", log=log,
                ).pointer  # fmt: skip
            return {"pointer": pointer, "noise_rate": None}
        every = {"validate_every": 0, "optimizer": optimizer, "tune": {"what": "all"}}  # no clean label selects weights
        supervised = configure(SupervisedConfig, {**self._finetuning, **own, **every}, "ablation.noise")
        # Draws go by the name: one for all, so that they are those of the clean twin, and another for other draws.
        name = "ablation_noise_again" if start == AGAIN else "ablation_noise_pretrained"
        return {"pointer": self.supervised(supervised, name, seed, data), "noise_rate": rate}

    def _labelled(self, start: str, seed: int) -> tuple[SegmentationData, float | None]:
        """The tiles to pretrain on with the labels of a start, and the share of pixels whose label differs."""
        from s5.noisy import corrupted_masks, disagreement

        manifest, config = self.data.manifest, self.config
        masked = manifest["mask"].map(lambda path: isinstance(path, str) and path != "")
        clean = manifest[(manifest["split"] == config.split) & masked]
        if clean.empty:
            raise ValueError(
                f"ablation.noise.split: the split {config.split!r} has no masks to corrupt; give one that has, or the "
                "tiles' true masks in the card"
            )
        if start == CARD:
            noisy = manifest[manifest["split"] == "noisy"]
            if noisy.empty:
                raise ValueError("ablation.noise.kinds: the card has no split 'noisy'; take 'card' out of the kinds")
        elif start in (CLEAN, AGAIN, SIMSIAM):
            noisy = clean
        else:
            folder = self.folder / "masks" / f"{start.replace(':', '-')}-{seed}"
            corruption = config.corruption(start)
            masks = corrupted_masks(clean["mask"], corruption, folder, seed=seed, labels=self.data.labels)
            noisy = clean.assign(mask=clean["mask"].map(masks))
        shared = noisy.merge(clean[[*_PLACE, "mask"]].drop_duplicates(_PLACE), on=_PLACE, suffixes=("", "_clean"))
        if shared.empty:
            return self._as_labelled(noisy), None  # of other places: nothing tells how wrong they are
        one, other = (self._as_labelled(rows) for rows in (shared, shared.assign(mask=shared["mask_clean"])))
        return self._as_labelled(noisy), disagreement(one.split("labeled"), other.split("labeled"), self.data.labels)

    def _as_labelled(self, rows: Any) -> SegmentationData:
        """The data with these tiles in place of the labelled ones, in an order that their labels have no part in."""
        import pandas as pd

        held = self.data.manifest[self.data.manifest["split"].isin(["val", "test"])]
        rows = rows.sort_values(_PLACE).assign(split="labeled")
        return replace(self.data, manifest=pd.concat([rows, held], ignore_index=True))

    def _layers(self, start: str, seed: int, pointer: Mapping[str, Any]) -> list[dict[str, Any]]:
        from s5.engine import resolve_compute
        from s5.noisy import compare_layers, probe_layers

        data, where = self.data, resolve_compute(self.compute)
        batch = self.parameters["evaluation"]["batch_size"]
        network = self._network(start, seed, pointer, where.device)
        twin = self._network(CLEAN, seed, self._pretrained(CLEAN, seed)[0], where.device)
        cka = compare_layers(
            network, twin, data.split("val" if data.has_split("val") else "labeled"), data.statistics,
            batch_size=batch, compute=where,
        )  # fmt: skip
        probes = probe_layers(
            network, data.split("labeled"), data.split(self.parameters["evaluation"]["split"]), data.statistics,
            data.labels, batch_size=batch, compute=where, ridge=self.config.ridge,
        )  # fmt: skip
        return [
            {"arm": start, "seed": seed, "depth": depth, "layer": name, "cka": cka[name], "probe_miou": probes[name]}
            for depth, name in enumerate(probes)
        ]

    def _network(self, start: str, seed: int, pointer: Mapping[str, Any], device: Any) -> Any:
        from s5.engine import start_model
        from s5.models import load_model, open_pointer

        if start == RANDOM:
            return start_model(self.model, self.data, seed=seed, project=self.project).to(device).eval()
        return load_model(open_pointer(pointer, self.project))[0].to(device)


def compare_starts(runs: Any, *, seed: int, resamples: int) -> Any:
    """For each depth and mode: mean, spread and paired differences of the starts to the three that know no labels."""
    import pandas as pd

    from s5.metrics import paired

    without = runs[runs["taken"] == "nothing"]
    ways = runs.loc[runs["taken"] != "nothing", ["taken", "mode"]].drop_duplicates()
    tables = []
    for taken, mode in ways.itertuples(index=False):
        mine = runs[(runs["taken"] == taken) & (runs["mode"] == mode)]
        table = paired.compare_arms(
            pd.concat([without, mine]), [SUPERVISED, RANDOM, SIMSIAM], seed=seed, resamples=resamples
        )
        rates = mine.groupby("arm")["noise_rate"].mean()
        tables.append(table.assign(taken=taken, mode=mode, noise_rate=table["arm"].map(rates)))
    whole = pd.concat(tables, ignore_index=True)
    first = ["taken", "mode", "arm", "noise_rate"]
    return whole[[*first, *(column for column in whole.columns if column not in first)]]
