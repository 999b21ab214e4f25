"""The documentation is true: its links, its parameter names and defaults, its pipelines."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/*.md"), *ROOT.glob("docs/pipelines/*.md"), ROOT / "README.md"])
METRICS = re.compile(r"\w+\.(loss|lr|val_miou|val_map50|map50|confident_share|pseudo_accuracy)|evaluation\.\w+\.miou")
SHARED = {"seed_model", "supervised", "finetune"}


def _parameters() -> dict[str, Any]:
    merged: dict[str, Any] = {}
    for path in sorted((ROOT / "conf" / "base").glob("parameters*.yml")):
        merged |= yaml.safe_load(path.read_text(encoding="utf-8"))
    return merged


def _lookup(parameters: dict[str, Any], name: str) -> Any:
    value: Any = parameters
    for part in name.split("."):
        assert isinstance(value, dict), name
        assert part in value, f"{name}: conf/base has no such parameter"
        value = value[part]
    return value


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_parameters_named_in_the_docs_exist(page: Path) -> None:
    parameters = _parameters()
    groups = "|".join(group for group, values in parameters.items() if isinstance(values, dict))
    for name in re.findall(rf"\b((?:{groups})(?:\.[a-z_0-9]+)+)=", page.read_text(encoding="utf-8")):
        if not name.startswith(("evaluation.models.", "detection.others.", "multi_finetune.datasets.")):  # the user's
            _lookup(parameters, name)
    for name in re.findall(rf"`((?:{groups})(?:\.[a-z_0-9]+)+)`", page.read_text(encoding="utf-8")):
        if not METRICS.fullmatch(name):
            _lookup(parameters, name)


@pytest.mark.parametrize("page", sorted(ROOT.glob("docs/pipelines/*.md")), ids=lambda p: p.name)
def test_defaults_in_tables_are_those_of_conf(page: Path) -> None:
    parameters = _parameters()
    for names, default in re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|", page.read_text(encoding="utf-8"), re.M):
        found = re.findall(r"`([a-z_0-9.]+)`", names)
        if not found or found[0].split(".")[0] not in parameters or "." not in found[0]:
            continue
        full = [n if not n.startswith(".") else found[0].rsplit(".", 1)[0] + n for n in found]
        values = [_lookup(parameters, name) for name in full]
        shown = yaml.safe_load(f"[{default.replace('`', '')}]")
        shown = shown if len(shown) == len(values) else [shown[0]] * len(values)
        for name, value, claim in zip(full, values, shown, strict=True):
            assert value == pytest.approx(claim, abs=0.01) if isinstance(value, list) else value == claim, name


def test_the_keys_of_the_training_groups_are_the_same() -> None:
    parameters = _parameters()
    own = {"finetune": {"init", "transfer"}}  # nothing else starts from a model that may be of another kind
    assert len({frozenset(set(parameters[group]) - own.get(group, set())) for group in SHARED}) == 1


def test_pipelines_in_the_table_are_those_registered() -> None:
    from s5_kedro.pipeline_registry import register_pipelines

    text = (ROOT / "docs" / "pipelines" / "index.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| \[?`([a-z0-9_]+)`", text.split("Parameters are in")[0], re.M))
    assert named == set(register_pipelines())


def test_outputs_in_the_table_are_in_the_catalog() -> None:
    text = (ROOT / "docs" / "pipelines" / "index.md").read_text(encoding="utf-8").split("Parameters are in")[0]
    rows = [line.split("|")[3] for line in text.splitlines() if line.startswith("| [")]
    named = {name for row in rows for name in re.findall(r"`([a-z0-9_]+)`", row)}
    catalog: set[str] = set()
    for path in (ROOT / "conf" / "base").glob("catalog_*.yml"):
        catalog |= set(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert catalog - named - {"report"} == set()
    assert named - catalog == set()


def test_files_that_the_readme_links_to_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


@pytest.mark.skipif(find_spec("mkdocs") is None, reason="the docs extra is not installed")
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        # Without it mkdocs-material prints an advertisement for its successor.
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    assert (tmp_path / "pipelines" / "s4p_pretrain" / "index.html").is_file()
