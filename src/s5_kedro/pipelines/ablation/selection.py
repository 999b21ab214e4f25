"""What S4P gains from each way to select its pool, at the same budget and steps."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from s5_kedro.parameters import configure
from s5_kedro.pipelines.ablation.config import SUPERVISED, AblationConfig
from s5_kedro.pipelines.ablation.study import LAYER_COLUMNS, Study, child_run
from s5_kedro.tracking import MetricsLog

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)


class SelectionStudy(Study):
    """The baseline, and S4P on the pool of each arm."""

    def tables(self, seeds: Iterable[int]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """A row a run; no layer is looked at."""
        import pandas as pd

        config = configure(AblationConfig, self.parameters["ablation"], "ablation")
        rows = [self.run(arm, seed) for seed in seeds for arm in (SUPERVISED, *config.names())]
        return pd.DataFrame(rows), pd.DataFrame(columns=list(LAYER_COLUMNS))

    def run(self, arm: str, seed: int) -> dict[str, Any]:
        """Train and evaluate one arm with one seed; a row of the table of runs."""
        return self.kept(f"{arm}-{seed}", lambda: self._run(arm, seed))

    def _run(self, arm: str, seed: int) -> dict[str, Any]:
        with child_run(arm, seed):
            pointer, pool = self._baseline(seed) if arm == SUPERVISED else self._pretrained(arm, seed)
            row = {"study": "selection", "arm": arm, "seed": seed, **self.scores(pointer), "pool": pool}
            with MetricsLog("ablation") as log:
                log({name: row[name] for name in ("miou", "macc", "mf1", "oa")}, 0)
        _log.info("ablation: %s with seed %d has %.2f mIoU", arm, seed, row["miou"])
        return row

    def _baseline(self, seed: int) -> tuple[dict[str, Any], int]:
        """As many steps and labelled images as the seed model and S4P take together."""
        from s5.finetuning import SupervisedConfig

        stages = [self.parameters[name] for name in ("seed_model", "s4p")]
        labeled = sum(stage["steps"] * stage["batch_size"] for stage in stages)
        values = dict(self.parameters["supervised"])
        if values.get("steps") in (None, "null"):
            values["steps"] = max(sum(s["steps"] for s in stages), math.ceil(labeled / values["batch_size"]))
        return self.supervised(configure(SupervisedConfig, values, "supervised"), "ablation_supervised", seed), 0

    def _pretrained(self, arm: str, seed: int) -> tuple[dict[str, Any], int]:
        from s5.semisup import S4PConfig, pretrain_s4p

        start = self._seed_model(seed)
        pool = self._select(arm, seed, start)
        with MetricsLog("s4p") as log:
            result = pretrain_s4p(
                self.data, pool, self.model, configure(S4PConfig, self.parameters["s4p"], "s4p"), self.compute,
                name="ablation_s4p", project=self.project, seed=seed, init=start, log=log,
            )  # fmt: skip
        return result.pointer, len(pool)

    def _seed_model(self, seed: int) -> dict[str, Any]:
        """One for all arms of a seed."""
        from s5.finetuning import SupervisedConfig

        config = configure(SupervisedConfig, self.parameters["seed_model"], "seed_model")
        return self.kept(f"seed_model-{seed}", lambda: self.supervised(config, "ablation_seed_model", seed))

    def _select(self, arm: str, seed: int, pointer: Mapping[str, Any]) -> list[str]:
        """The pool of an arm: ids of its tiles."""
        from s5 import selection

        scores, embeddings, labeled = self._scored(pointer)
        chosen = AblationConfig(arms=arm, reference=arm).sampling(arm)
        values = {**self.parameters["diversity_sampling"], **chosen}
        config = configure(selection.SamplingConfig, values, "diversity_sampling", seed=seed)
        found = selection.sample_diverse(scores, embeddings, labeled, config, left_out=self._left_out)
        return list(found.pool["tile_id"])

    def _scored(self, pointer: Mapping[str, Any]) -> tuple[pd.DataFrame, Any, Any]:
        """Scores and embeddings by a seed model; parts that are there are not computed again."""
        from s5 import selection
        from s5.engine import resolve_compute
        from s5.models import load_model, open_pointer

        where = {key: self.parameters["compute"][key] for key in ("device", "precision", "threads")}
        config = configure(selection.ScoringConfig, self.parameters["entropy_scoring"], "entropy_scoring", **where)
        precision = resolve_compute(self.compute).precision
        key = selection.scoring_key(self.fingerprint, pointer["sha256"], config, precision)
        model, _ = load_model(open_pointer(pointer, self.project))
        data, unlabeled = self.data, self.data.split("unlabeled")
        folder = self.project / "data/04_feature/scoring" / key
        scores, embeddings = selection.score_in_parts(model, unlabeled, data.statistics, data.labels, config, folder)
        return scores, embeddings, selection.embed_tiles(model, data.split("labeled"), data.statistics, config)

    @cached_property
    def _left_out(self) -> pd.Series[str] | None:
        from s5 import selection

        config = configure(selection.QualityConfig, self.parameters["quality"], "quality")
        if config == selection.QualityConfig():
            return None
        measured = selection.measure_quality(self.data.split("unlabeled"), self.data.statistics)
        return selection.quality_reasons(measured, config)
