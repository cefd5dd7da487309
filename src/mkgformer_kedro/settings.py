"""Kedro's project settings: what every run does, and how environments are merged."""

from mkgformer_kedro.configuration import ExtendingConfigLoader
from mkgformer_kedro.hooks.input import BadInputHooks
from mkgformer_kedro.hooks.interruption import InterruptionHooks
from mkgformer_kedro.hooks.lineage import LineageHooks
from mkgformer_kedro.hooks.locks import LockHooks
from mkgformer_kedro.hooks.scores import ScoreSummaryHooks
from mkgformer_kedro.hooks.work import WorkHooks

HOOKS = (
    InterruptionHooks(),
    BadInputHooks(),
    LockHooks(),
    LineageHooks(),
    ScoreSummaryHooks(),
    WorkHooks(),
)

CONFIG_LOADER_CLASS = ExtendingConfigLoader
CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # An environment names only what differs from the base.
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}
