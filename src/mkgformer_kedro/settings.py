"""Kedro's project settings: what every run does, and how environments are merged."""

from mkgformer_kedro.configuration import ExtendingConfigLoader
from mkgformer_kedro.hooks import BadInputHooks, ScoreSummaryHooks

HOOKS = (BadInputHooks(), ScoreSummaryHooks())

CONFIG_LOADER_CLASS = ExtendingConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # An environment names only what differs from the base.
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}
