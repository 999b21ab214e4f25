"""Parameters become configs, and mistakes become messages that name the key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from s5_kedro.parameters import GROUPS, PLAIN, config_of, configure, flatten

CONF = Path(__file__).parents[2] / "conf"


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ValueError(f"inner.lr: expected a positive rate, got {self.lr}")


@dataclass(frozen=True)
class Outer:
    steps: int = 1
    share: float = 0.5
    teacher: Literal["self", "ema"] = "ema"
    init: str | None = "seed"
    flag: bool = False
    scale: tuple[float, float] = (0.5, 2.0)
    names: tuple[str, ...] = ()
    paths: Mapping[str, str] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)
    seed: int = 0


@dataclass(frozen=True)
class Needs:
    budget: int


def base_parameters(env: str = "base") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in sorted((CONF / env).glob("parameters*.yml")):
        found.update(yaml.safe_load(path.read_text()))
    return found


def test_command_line_values_take_the_annotated_type() -> None:
    given_values = {"steps": 1e3, "share": 1, "init": "null", "flag": "true", "scale": [1, 2], "names": ["a"]}
    made = configure(Outer, {**given_values, "inner": {"lr": 1}}, "s4p", seed=7)
    assert made == Outer(1000, 1.0, "ema", None, True, (1.0, 2.0), ("a",), {}, Inner(1.0), 7)
    assert isinstance(made.steps, int)
    assert isinstance(made.share, float)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"step": 3}, r"s4p\.step: there is no such parameter; did you mean s4p\.steps\?"),
        ({"lr": 3}, r"s4p\.lr: .*did you mean s4p\.inner\.lr\?"),
        ({"inner": {"lrr": 3}}, r"s4p\.inner\.lrr: .*did you mean s4p\.inner\.lr\?"),
        ({"seed": 3}, r"s4p\.seed: there is no such parameter"),
        ({"steps": "ten"}, r"s4p\.steps: expected a whole number, got 'ten'"),
        ({"steps": 1.5}, r"s4p\.steps: expected a whole number, got 1\.5"),
        ({"steps": True}, r"s4p\.steps: expected a whole number"),
        ({"share": "x"}, r"s4p\.share: expected a number"),
        ({"teacher": "both"}, r"s4p\.teacher: expected one of self, ema, got 'both'"),
        ({"scale": [1]}, r"s4p\.scale: expected 2 values, got 1"),
        ({"inner": {"lr": -1}}, r"^s4p\.inner\.lr: expected a positive rate, got -1"),
        (5, r"s4p: expected a group of parameters"),
    ],
)
def test_a_mistake_names_the_key(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        configure(Outer, values, "s4p", seed=0)


def test_a_parameter_without_a_default_is_asked_for() -> None:
    with pytest.raises(ValueError, match=r"diversity_sampling\.budget: has no value; .*--params=diversity_sampling"):
        configure(Needs, {}, "diversity_sampling")


@given(st.recursive(st.integers(), lambda inner: st.dictionaries(st.text("ab", min_size=1), inner, min_size=1)))
def test_flattening_keeps_every_value_under_its_path(nested: Any) -> None:
    flat = flatten({"top": nested})
    for key, value in flat.items():
        found: Any = {"top": nested}
        for part in key.split("."):
            found = found[part]
        assert found == value


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_the_base_configuration_sets_every_parameter(group: str) -> None:
    """So that a user sees what there is to turn, and MLflow holds all of it."""
    values = base_parameters()[group]
    config = config_of(group, values)
    from_nodes = set() if group == "compute" else {"seed", "device", "precision", "threads"}
    assert {f.name for f in fields(config)} - from_nodes == set(values)


def test_every_top_level_parameter_is_known() -> None:
    assert set(base_parameters()) == set(GROUPS) | set(PLAIN)


def merged_parameters(env: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    merged = OmegaConf.to_container(OmegaConf.merge(base_parameters(), base_parameters(env)))
    assert isinstance(merged, dict)
    return merged  # type: ignore[return-value]


@pytest.mark.parametrize("env", ["test", "longer", "s5_vit_b", "s5_vit_l", "s5_vit_h"])
def test_every_environment_is_valid(env: str) -> None:
    for group in GROUPS:
        config_of(group, merged_parameters(env)[group])


def test_the_papers_recipes() -> None:
    """papers: S4P's released code and its README; the three sizes differ by their network alone."""
    b, large, huge = (merged_parameters(f"s5_vit_{size}") for size in "blh")
    for other, name in ((large, "s5_vit_l"), (huge, "s5_vit_h")):
        assert other == {**b, "model": {**b["model"], "encoder": name}}
    assert b["model"]["encoder"] == "s5_vit_b"
    assert b["model"]["decoder_channels"] == 256
    s4p = config_of("s4p", b["s4p"])
    assert (s4p.steps, s4p.batch_size, s4p.unlabeled_batch_size) == (120_000, 12, 12)
    assert (s4p.teacher, s4p.pseudo_labels.tau, s4p.lambda_u) == ("self", 0.95, 1.0)
    assert (s4p.optimizer.lr, s4p.optimizer.weight_decay, s4p.optimizer.warmup) == (5e-5, 0.01, 0.0)
    assert (s4p.augmentation.crop, s4p.augmentation.scale) == (512, (0.5, 2.0))
    assert (s4p.strong.hue, s4p.strong.gray, s4p.strong.blur_sigma) == (0.25, 0.2, (0.1, 2.0))
    assert (s4p.cutmix.probability, s4p.cutmix.area) == (0.5, (0.02, 0.4))
    finetune = config_of("finetune", b["finetune"])
    assert (finetune.optimizer.lr, finetune.optimizer.weight_decay) == (5e-5, 0.05)
    assert finetune.optimizer.layer_decay == 0.9
    assert b["diversity_sampling"]["budget"] == 1_000_000
