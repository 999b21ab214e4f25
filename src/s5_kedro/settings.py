"""Kedro settings: https://docs.kedro.org/en/stable/configure/configuration_basics/"""

from s5_kedro.hooks import FingerprintHooks, ParameterHooks, TrackingHooks

# The last one is called first: a wrong parameter is told before anything else happens.
HOOKS = (TrackingHooks(), FingerprintHooks(), ParameterHooks())

# Without the soft merge an environment that sets one key of a parameter group drops all the others of it.
CONFIG_LOADER_ARGS = {
    "config_patterns": {"mlflow": ["mlflow*", "mlflow*/**", "**/mlflow*"]},
    "base_env": "base",
    "default_run_env": "local",
    "merge_strategy": {"parameters": "soft", "globals": "soft", "catalog": "soft"},
}
