"""What each artefact was made from, and the refusal to reuse one that was made from something else.

Kedro asks only whether a file exists. Each version therefore lies beside a `fingerprint.json`: the parameters of the
node that made it, the dataset card's content, and the hashes of its inputs' fingerprints, so that a difference anywhere
upstream shows. Versions are recorded but never compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from kedro.io import CatalogProtocol
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from s5.members import file_behind
from s5_kedro.cards import dataset_entries
from s5_kedro.datasets.atomic import FINGERPRINT, AtomicDataset
from s5_kedro.parameters import flatten
from s5_kedro.project import find_card, find_file

# Where a network runs, and how many checkpoints lie around meanwhile, does not change what it is.
_OF_THE_MACHINE = {
    "compute.device",
    "compute.threads",
    "compute.cache_mb",
    "compute.read_threads",
    "compute.read_processes",
    "compute.part",
    "compute.backend",
    "compute.ray_address",
    "compute.devices",
    "compute.hosts",
    "compute.rendezvous",
    "compute.restarts",
    "compute.sharding",
    "compute.profile_steps",
    "diversity_sampling.workers",
}
_SEVERAL = "params:multi_finetune.datasets"
# Parameters that name models by path, which then take the place of the catalog's.
_GIVEN_MODELS = (("evaluation", "models"), ("scene", "model"), ("finetune", "init"))
_OF_CHECKPOINTS = (".checkpoint_every", ".keep")


@dataclass(frozen=True)
class Fingerprint:
    """What one artefact was made from.

    Args:
        node: The node that made it.
        parameters: That node's parameters, flattened.
        card: Content of the dataset card, where the node reads it.
        inputs: Input artefact to {version, hash}.
        lineage: Parameters and card of the node and everything upstream of it.
    """

    node: str
    parameters: dict[str, Any]
    card: dict[str, str] | None
    inputs: dict[str, dict[str, str | None]]
    lineage: dict[str, Any]

    @property
    def hash(self) -> str:
        inputs = {name: value["hash"] for name, value in self.inputs.items()}
        return _hash([self.node, self.parameters, _content(self.card), inputs])

    def to_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "hash": self.hash}


def read_fingerprint(dataset: AtomicDataset) -> Fingerprint | None:
    """The fingerprint beside the version that a load would read, or None."""
    path = dataset.path.with_name(FINGERPRINT)
    if not path.is_file():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    values.pop("hash")
    return Fingerprint(**values)


def expected_fingerprint(node: Node, catalog: CatalogProtocol, made: Mapping[str, Fingerprint]) -> Fingerprint:
    """The fingerprint of what `node` makes now.

    Args:
        node: A node of the run.
        catalog: The run's catalog.
        made: Fingerprints of artefacts that this run makes or would make; others are read from disk.
    """
    parameters = node_parameters(node, catalog)
    card = _card_read(node, catalog)
    inputs: dict[str, dict[str, str | None]] = {}
    lineage: dict[str, Any] = {"parameters": {}, "card": None}
    for name in sorted(read_inputs(node, catalog)):
        found = made.get(name) or _existing(catalog, name)
        inputs[name] = {"version": _version(catalog, name), "hash": found.hash if found else None}
        if found:
            lineage["parameters"].update(found.lineage["parameters"])
            lineage["card"] = found.lineage["card"] or lineage["card"]
    lineage["parameters"].update(parameters)
    return Fingerprint(node.name, parameters, card, inputs, {**lineage, "card": card or lineage["card"]})


def node_parameters(node: Node, catalog: CatalogProtocol) -> dict[str, Any]:
    """The flattened parameters that a node takes, as JSON values; a file that one names is held by its content."""
    flat: dict[str, Any] = {}
    for name in node.inputs:
        if name == "parameters":
            flat.update(flatten(catalog.load(name)))
        elif name.startswith("params:"):
            flat.update(flatten({name.removeprefix("params:"): catalog.load(name)}))
    kept = {key: _plain(value) for key, value in flat.items() if key != "dataset" and changes_results(key)}
    return kept | {f"{key} (content)": stamp for key, value in kept.items() if (stamp := _file_content(value))}


def changes_results(key: str) -> bool:
    """Whether a parameter, by its flattened name, can change what a run makes."""
    return key not in _OF_THE_MACHINE and not key.endswith(_OF_CHECKPOINTS)


def read_inputs(node: Node, catalog: CatalogProtocol) -> set[str]:
    """The artefacts that a node really reads: models given by path take the place of the catalog's."""
    names = {name for name in node.inputs if isinstance(_dataset(catalog, name), AtomicDataset)}
    if any(_given(node, catalog, *key) for key in _GIVEN_MODELS):
        names = {name for name in names if not name.endswith("_model")}
    return names


def _given(node: Node, catalog: CatalogProtocol, group: str, key: str) -> Any:
    """The value of a parameter that a node takes; None where it does not, or where it is null."""
    if f"params:{group}" not in node.inputs:
        return None
    value = (catalog.load(f"params:{group}") or {}).get(key)
    return None if value in (None, "null") else value


def _card_read(node: Node, catalog: CatalogProtocol) -> dict[str, str] | None:
    """The fingerprint of the card, or of the several cards, that a node reads."""
    if _SEVERAL in node.inputs:
        return _cards_fingerprint(catalog)
    return card_fingerprint(catalog.load("params:dataset")) if _reads_card(node, catalog) else None


def _cards_fingerprint(catalog: CatalogProtocol) -> dict[str, str]:
    found = {name: card_fingerprint(of.card) for name, of in dataset_entries(catalog.load(_SEVERAL)).items()}
    hashes = {key: _hash({name: card[key] for name, card in found.items()}) for key in ("text", "files")}
    paths = ", ".join(card["path"] for card in found.values())
    return {"path": paths, **hashes, "parameter": _SEVERAL.removeprefix("params:")}


def _reads_card(node: Node, catalog: CatalogProtocol) -> bool:
    """Whether a node reads the dataset card: not where it is given the scenes by path."""
    return "params:dataset" in node.inputs and not _given(node, catalog, "scene", "images")


def check_present(pipeline: Pipeline, catalog: CatalogProtocol, registered: Mapping[str, Pipeline]) -> None:
    """Refuse a run that reads an artefact which nobody made yet.

    Raises:
        FileNotFoundError: with the artefact and the pipeline that makes it.
    """
    for name in sorted(_free_inputs(pipeline, catalog)):
        if _dataset(catalog, name).exists():
            continue
        makers = [(len(p.nodes), pipe) for pipe, p in registered.items() if name in p.all_outputs()]
        how = f"make it with kedro run --pipelines={min(makers)[1]}" if makers else "no pipeline makes it"
        taken = {entry for node in pipeline.nodes for entry in node.inputs} if name.endswith("_model") else set()
        also = "".join(text for entry, text in _FINISHED.items() if entry in taken)
        raise FileNotFoundError(f"{name}: there is none yet; {how}{also}")


_FINISHED = {
    "params:evaluation": ", or evaluate a finished model with --params=evaluation.models.NAME=POINTER_OR_WEIGHTS",
    "params:scene": ", or map with a finished model: --params=scene.model=POINTER_OR_WEIGHTS",
}


def _free_inputs(pipeline: Pipeline, catalog: CatalogProtocol) -> set[str]:
    """The artefacts that a run reads but does not make."""
    return {name for node in pipeline.nodes for name in read_inputs(node, catalog)} & pipeline.inputs()


def check_reused(pipeline: Pipeline, catalog: CatalogProtocol, *, only_missing: bool, given: Iterable[str]) -> None:
    """Refuse a run that would reuse an artefact made for another card, seed or setting.

    Args:
        pipeline: What is to be run.
        catalog: The run's catalog.
        only_missing: Whether nodes whose outputs exist are skipped.
        given: Flattened names of the parameters given on the command line.

    Raises:
        ValueError: with the artefact, the key that differs, both values, and what to do.
    """
    _check_free_inputs(pipeline, catalog, set(given))
    if only_missing:
        _check_skipped(pipeline, catalog)


def _check_free_inputs(pipeline: Pipeline, catalog: CatalogProtocol, given: set[str]) -> None:
    """What the run reads but does not make: compared in the parameters that both know, the card and the seed."""
    free = {name: found for name in sorted(_free_inputs(pipeline, catalog)) if (found := _existing(catalog, name))}
    if not free:
        return
    current = {key: _plain(value) for key, value in flatten(catalog.load("parameters")).items()}
    taken = set().union(*(node_parameters(node, catalog) for node in pipeline.nodes))
    compared = {key for key in taken | given | {"seed"} if not key.startswith("compute.") and key in current}
    for name, found in free.items():
        old = {key: value for key, value in found.lineage["parameters"].items() if key in compared}
        _compare(name, old, {key: current[key] for key in old}, made_by=found.node, fresh=_PIPELINE)
        several = "parameter" in (found.lineage["card"] or {})
        card = _cards_fingerprint(catalog) if several else card_fingerprint(catalog.load("params:dataset"))
        _compare_card(name, found.lineage["card"], card, fresh=_PIPELINE)


def _check_skipped(pipeline: Pipeline, catalog: CatalogProtocol) -> None:
    expected: dict[str, Fingerprint] = {}
    for node in pipeline.nodes:
        now = expected_fingerprint(node, catalog, expected)
        expected.update(dict.fromkeys(node.outputs, now))
        outputs = {name: _dataset(catalog, name) for name in node.outputs}
        if not all(isinstance(dataset, AtomicDataset) and dataset.exists() for dataset in outputs.values()):
            continue
        for name in outputs:
            _check_same(name, _existing(catalog, name), now)


def _check_same(name: str, found: Fingerprint | None, now: Fingerprint) -> None:
    if found is None:
        raise ValueError(f"{name}: nothing records what it was made from (no {FINGERPRINT} beside it); {_WHOLE}")
    _compare(name, found.parameters, now.parameters, made_by=found.node, fresh=_WHOLE)
    if now.card is not None:
        _compare_card(name, found.card, now.card, fresh=_WHOLE)
    for key in sorted(set(found.inputs) | set(now.inputs)):
        if found.inputs.get(key, {}).get("hash") != now.inputs.get(key, {}).get("hash"):
            raise ValueError(f"{name}: was made from another {key} than the one this run has; {_WHOLE}")


_WHOLE = "run without --only-missing-outputs to make it anew"
_PIPELINE = "run the pipeline that makes it anew"


def _compare(name: str, old: Mapping[str, Any], new: Mapping[str, Any], *, made_by: str, fresh: str) -> None:
    for key in sorted(set(old) | set(new)):
        if old.get(key) != new.get(key):
            was = f"{key} = {json.dumps(old[key])}" if key in old else f"no {key}"
            now = json.dumps(new[key]) if key in new else "nothing"
            again = f", or give --params={key}={old[key]} to reuse it" if key in old and "(" not in key else ""
            raise ValueError(f"{name}: {made_by} made it with {was}, this run has {now}; {fresh}{again}")


def _compare_card(name: str, old: Mapping[str, str] | None, new: Mapping[str, str], *, fresh: str) -> None:
    if old is None or _content(old) == _content(new):
        return
    parameter = new.get("parameter", "dataset")
    if old["path"] != new["path"]:
        changed = f"{parameter}: {name} was made from {old['path']}, this run has {new['path']}"
    else:
        what = "its text" if old["text"] != new["text"] else "the files that it lists"
        changed = f"{parameter}: {name} was made from {old['path']}, and {what} changed since"
    raise ValueError(f"{changed}; {fresh}, or give the card that it was made from with --params={parameter}=PATH")


def card_fingerprint(dataset: str) -> dict[str, str]:
    """Path, hash of the text, and hash of the listing (names, sizes, times) of a dataset card's files."""
    path = find_card(str(dataset))
    return {"path": str(path), "text": _hash_bytes(path.read_bytes()), "files": _listing(path)}


def _listing(path: Path) -> str:
    from s5.data.card import load_card
    from s5.data.listing import list_split

    card = load_card(path)
    files: set[Path | None] = set()
    for source in card.splits.values():
        entries, rejected = list_split(card, source)
        files.update(file for entry in entries for file in (entry.image, entry.mask))
        files.update([*(reject.path for reject in rejected), source.list_file, source.boxes])
    return _hash([_file_state(card, file) for file in sorted(file for file in files if file is not None)])


def _file_state(card: Any, file: Path) -> list[Any]:
    # The path as seen from the card, so that a moved folder is the same dataset.
    on_disk = file_behind(file)
    if not on_disk.is_file():
        return [card.shown(file)]
    status = on_disk.stat()
    return [card.shown(file), status.st_size, status.st_mtime_ns]


def _dataset(catalog: CatalogProtocol, name: str) -> Any:
    return None if name.startswith("params:") or name == "parameters" else catalog.get(name)


def _existing(catalog: CatalogProtocol, name: str) -> Fingerprint | None:
    dataset = _dataset(catalog, name)
    return read_fingerprint(dataset) if isinstance(dataset, AtomicDataset) and dataset.exists() else None


def _version(catalog: CatalogProtocol, name: str) -> str | None:
    dataset = _dataset(catalog, name)
    return dataset.path.parent.name if isinstance(dataset, AtomicDataset) and dataset.exists() else None


def _content(card: Mapping[str, str] | None) -> list[str] | None:
    return None if card is None else [card["text"], card["files"]]


def _plain(value: Any) -> Any:
    """As JSON would give it back; `null` may come from the command line as text."""
    return None if value == "null" else json.loads(json.dumps(value, default=str))


def _file_content(value: Any) -> str | None:
    if not isinstance(value, str) or "." not in value:
        return None
    found = find_file(value)
    return _content_of(found, found.stat().st_mtime_ns) if found is not None and found.is_file() else None


@cache
def _content_of(path: Path, modified: int) -> str:  # noqa: ARG001 - the time is part of the cache's key
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def _hash(value: Any) -> str:
    return _hash_bytes(json.dumps(value, sort_keys=True, default=str).encode())


def _hash_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]
