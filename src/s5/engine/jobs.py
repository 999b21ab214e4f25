"""A call of a training function as files, so that processes on any host can make it: plain JSON, and tables beside it.

Only functions and records of this library are named in a job, and nothing in it is pickled.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from s5.files import replacing

_FILE = "job.json"


def write_job(folder: Path, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Write the call ``function(**arguments)``; `folder` holds a whole job as soon as its ``job.json`` is there.

    Raises:
        TypeError: an argument is neither plain, a path, a table nor a dataclass of this library.
    """
    folder.mkdir(parents=True, exist_ok=True)
    job = {"function": _name_of(function), "arguments": {k: _plain(v, k, folder) for k, v in arguments.items()}}
    with replacing(folder / _FILE) as temporary:
        temporary.write_text(json.dumps(job, indent=2) + "\n", encoding="utf-8")


def has_job(folder: Path) -> bool:
    return (folder / _FILE).is_file()


def read_job(folder: Path) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The function of a job and its arguments.

    Raises:
        ValueError: the job names something that is not of this library.
    """
    job = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    function: Callable[..., Any] = _named(job["function"])
    return function, {name: _restored(value, folder) for name, value in job["arguments"].items()}


def _plain(value: Any, name: str, folder: Path) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return {"$path": str(value)}
    if hasattr(value, "to_parquet"):
        import pandas as pd  # s5.engine is imported on machines without it

        columns = [column for column in value.columns if value[column].dtype.name != "geometry"]
        pd.DataFrame(value[columns]).to_parquet(folder / f"{name}.parquet")
        return {"$table": f"{name}.parquet"}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return {
            "$record": _name_of(type(value)),
            "fields": {k: _plain(v, f"{name}.{k}", folder) for k, v in fields.items()},
        }
    if isinstance(value, list | tuple):
        items = [_plain(item, f"{name}.{place}", folder) for place, item in enumerate(value)]
        return items if isinstance(value, list) else {"$tuple": items}
    if isinstance(value, Mapping):
        return {"$dict": [[str(k), _plain(v, f"{name}.{k}", folder)] for k, v in value.items()]}
    raise TypeError(f"job: {name} is a {type(value).__name__}; expected plain values, paths, tables and records of s5")


def _restored(value: Any, folder: Path) -> Any:
    if isinstance(value, list):
        return [_restored(item, folder) for item in value]
    if not isinstance(value, dict):
        return value
    if "$path" in value:
        return Path(value["$path"])
    if "$table" in value:
        import pandas as pd

        return pd.read_parquet(folder / value["$table"])
    if "$tuple" in value:
        return tuple(_restored(item, folder) for item in value["$tuple"])
    if "$dict" in value:
        return {name: _restored(item, folder) for name, item in value["$dict"]}
    record: Callable[..., Any] = _named(value["$record"])
    return record(**{name: _restored(item, folder) for name, item in value["fields"].items()})


def _name_of(what: Any) -> str:
    return f"{what.__module__}:{what.__qualname__}"


def _named(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if module.split(".")[0] != "s5" or not attribute.isidentifier():
        raise ValueError(f"job: {name!r} is not of this library; expected s5.<module>:<name>")
    return getattr(importlib.import_module(module), attribute)
