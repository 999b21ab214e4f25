"""What exactly was run, and how to run it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from s5.report.inputs import ReportInputs
from s5.report.markup import Html, element, table
from s5.report.sections.parts import figure, folded, section

_PLACED = ("selection_report", "confusion_matrix", "prediction_gallery")


def more_figures(inputs: ReportInputs) -> Html | None:
    """Pictures that no section knows."""
    others = {name: image for name, image in inputs.figures.items() if name not in _PLACED}
    if not others:
        return None
    return section("figures", "More figures", [figure(image, name, name) for name, image in others.items()])


def parameters(inputs: ReportInputs) -> Html | None:
    """The parameters as YAML, a fold a group."""
    if not inputs.parameters:
        return None
    groups = {k: v for k, v in inputs.parameters.items() if isinstance(v, Mapping)}
    plain = {k: v for k, v in inputs.parameters.items() if k not in groups}
    folds = [folded(str(name), element("pre", as_yaml(values))) for name, values in groups.items()]
    return section(
        "parameters",
        "Parameters",
        element("p", "As the run took them, after all overrides.", class_="lead"),
        element("pre", as_yaml(plain)) if plain else None,
        folds,
    )


def reproduction(inputs: ReportInputs) -> Html | None:
    """Command, seed, revision, weights and versions."""
    facts = [
        ("command", inputs.command),
        ("seed", None if inputs.seed is None else str(inputs.seed)),
        ("git revision", inputs.revision),
        ("dataset fingerprint", (inputs.label_space or {}).get("fingerprint")),
    ]
    rows = [[name, element("td", element("code", str(value)))] for name, value in facts if value]
    weights = [
        [name, element("td", element("code", str(pointer["sha256"])))]
        for name, pointer in inputs.models.items()
        if pointer and pointer.get("sha256")
    ]
    versions = [[name, element("td", element("code", str(v)))] for name, v in sorted(inputs.versions.items())]
    if not rows and not weights and not versions:
        return None
    text = "The same command on the same code, data, seed and machine gives the same weights, bit for bit, on a CPU."
    return section(
        "reproduce",
        "How to get this again",
        element("p", text, class_="lead"),
        table(["", ""], rows, class_="facts") if rows else None,
        folded("Weights (SHA-256 of the safetensors files)", table(["model", "sha256"], weights)) if weights else None,
        folded("Versions", table(["package", "version"], versions)) if versions else None,
    )


def as_yaml(values: Mapping[str, Any]) -> str:
    """Nested values as YAML in their own order; what YAML does not know is written as text."""
    return str(yaml.safe_dump(_plain(values), sort_keys=False, allow_unicode=True, default_flow_style=False, width=100))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | bool | int | float) else str(value)
