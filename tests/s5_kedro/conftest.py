"""What the tests of the Kedro side share."""

from __future__ import annotations

import warnings

# Kedro's plug-ins define their classes the old pydantic way and say so when they are imported.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import kedro_mlflow.framework.hooks  # noqa: F401
