"""Kedro settings: https://docs.kedro.org/en/stable/configure/configuration_basics/"""

from s5_kedro.hooks import FingerprintHooks, ParameterHooks, TrackingHooks

HOOKS = (ParameterHooks(), FingerprintHooks(), TrackingHooks())

# Without the soft merge an environment that sets one key of a parameter group drops all the others of it.
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    "merge_strategy": {"parameters": "soft", "globals": "soft", "catalog": "soft"},
}
