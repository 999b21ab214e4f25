"""From YAML and `--params` to the library's config dataclasses, with errors that name the key."""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

# Parameter group -> the dataclass that checks it; imported when a run needs it, since most of them import torch.
GROUPS = {
    "ingestion": "s5.data.ingest:IngestionConfig",
    "sharding": "s5.data.shards:ShardingConfig",
    "model": "s5.models:ModelConfig",
    "compute": "s5.engine.compute:ComputeConfig",
    "seed_model": "s5.finetuning:SupervisedConfig",
    "supervised": "s5.finetuning:SupervisedConfig",
    "entropy_scoring": "s5.selection:ScoringConfig",
    "quality": "s5.selection:QualityConfig",
    "diversity_sampling": "s5.selection:SamplingConfig",
    "selection_report": "s5.report.selection:SelectionReportConfig",
    "purification": "s5.purification.config:PurificationConfig",
    "s4p": "s5.semisup:S4PConfig",
    "finetune": "s5_kedro.pipelines.finetune.config:FinetuneParameters",
    "multi_finetune": "s5_kedro.pipelines.multi_finetune.config:MultiFinetuneConfig",
    "noisy_labels": "s5.noisy:NoisyLabelsConfig",
    "noisy": "s5.noisy:NoisyConfig",
    "label_cleaning": "s5.noisy:CleaningConfig",
    "training_plan": "s5.engine.planning:PlanConfig",
    "ablation": "s5_kedro.pipelines.ablation.config:AblationConfig",
    "detection": "s5.detection.config:DetectionConfig",
    "evaluation": "s5_kedro.pipelines.evaluation.config:EvaluationConfig",
    "dataset_import": "s5.data.importing:ImportConfig",
    "submission": "s5.inference.submission:SubmissionConfig",
    "results_table": "s5_kedro.pipelines.results_table.config:ResultsTableConfig",
    "scene": "s5_kedro.pipelines.scene_inference.config:SceneParameters",
}
PLAIN = ("dataset", "seed")
# Fields that a node fills from `seed` and `compute`: they are no parameters of the group itself.
_FROM_NODES: dict[str, Any] = {"seed": 0, "device": "auto", "precision": "auto", "threads": 0}


def configure(cls: type[T], values: Mapping[str, Any], group: str, **extra: Any) -> T:
    """Build the dataclass `cls` from a parameter group.

    Args:
        cls: A config dataclass.
        values: The group as YAML and `--params` give it; nested groups become nested dataclasses.
        group: The group's name, for messages.
        extra: Fields that are not parameters of the group, such as the seed.

    Raises:
        ValueError: a key that `cls` does not have, a value of the wrong type or out of range.
    """
    if not isinstance(values, Mapping):
        raise ValueError(f"{group}: expected a group of parameters such as {group}.key=value, got {values!r}")
    hints = get_type_hints(cls)
    known = [field.name for field in fields(cls) if field.name not in extra]  # type: ignore[arg-type]
    nested = {f"{name}.{f.name}" for name in known if is_dataclass(hints[name]) for f in fields(hints[name])}
    check_names(values, known, prefix=f"{group}.", nested=nested)
    converted = {key: _convert(hints[key], value, f"{group}.{key}") for key, value in values.items()}
    required = {f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING}  # type: ignore[arg-type]
    missing = sorted(required - set(converted) - set(extra))
    if missing:
        raise ValueError(f"{group}.{missing[0]}: has no value; give it with --params={group}.{missing[0]}=VALUE")
    try:
        return cls(**converted, **extra)
    except ValueError as error:
        raise ValueError(_with_group(str(error), group, known)) from error


def _with_group(message: str, group: str, known: list[str]) -> str:
    """A config names its own field (`lr: ...` or `optimizer.lr: ...`); the user gave `s4p.optimizer.lr`."""
    if message.startswith(group):
        return message
    tail = group.rpartition(".")[2]
    if message.startswith(f"{tail}."):
        return group.removesuffix(tail) + message
    return f"{group}.{message}" if message.split(":")[0].split(".")[0] in known else f"{group}: {message}"


def check_names(names: Iterable[str], known: Iterable[str], *, prefix: str = "", nested: Iterable[str] = ()) -> None:
    """Refuse a name that is not known, naming the nearest one.

    Raises:
        ValueError: with the name, the nearest known names and all of them.
    """
    known = sorted(known)
    for name in names:
        if name not in known:
            deeper = [n for n in sorted(nested) if n.rpartition(".")[2] == name]
            near = deeper or get_close_matches(str(name), known, n=2, cutoff=0.5)
            hint = f"did you mean {' or '.join(prefix + n for n in near)}? " if near else ""
            raise ValueError(f"{prefix}{name}: there is no such parameter; {hint}known are {', '.join(known)}")


def config_of(group: str, values: Mapping[str, Any]) -> Any:
    """The checked config of a parameter group of the registry `GROUPS`."""
    module, _, name = GROUPS[group].partition(":")
    cls = getattr(import_module(module), name)
    names = {field.name for field in fields(cls)} if group != "compute" else set()
    if group == "supervised" and values.get("steps") in (None, "null"):
        values = {key: value for key, value in values.items() if key != "steps"}  # the node works out the fair budget
    return configure(cls, values, group, **{key: value for key, value in _FROM_NODES.items() if key in names})


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested parameters as one level with dotted keys: {"s4p": {"lr": 1}} -> {"s4p.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        flat.update(flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value})
    return flat


def _convert(hint: Any, value: Any, name: str) -> Any:
    """`value` as the annotated type; --params gives 1e3 as a float and null as text."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(arguments, value, name)
    if is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else configure(hint, value, name)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{name}: expected one of {', '.join(map(str, arguments))}, got {value!r}")
        return value
    if origin in (tuple, list) and isinstance(value, list | tuple):
        return _convert_sequence(origin, arguments, value, name)
    if hint in _PLAIN_TYPES:
        return _convert_plain(hint, value, name)
    return value


def _convert_union(options: tuple[Any, ...], value: Any, name: str) -> Any:
    if types.NoneType in options and (value is None or value in ("null", "None", "")):
        return None
    rest = [option for option in options if option is not types.NoneType]
    for option in rest[:-1]:
        try:
            return _convert(option, value, name)
        except ValueError:
            continue
    return _convert(rest[-1], value, name)


def _convert_sequence(origin: Any, arguments: tuple[Any, ...], value: Any, name: str) -> Any:
    if origin is list or (len(arguments) == 2 and arguments[1] is Ellipsis):
        kinds = [arguments[0] if arguments else Any] * len(value)
    elif len(arguments) != len(value):
        raise ValueError(f"{name}: expected {len(arguments)} values, got {len(value)} ({value!r})")
    else:
        kinds = list(arguments)
    return origin(_convert(kind, item, f"{name}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True)))


_PLAIN_TYPES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _convert_plain(kind: type, value: Any, name: str) -> Any:
    if kind is bool and str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if type(value) is kind:
        return value
    raise ValueError(f"{name}: expected {_PLAIN_TYPES[kind]}, got {value!r}")
