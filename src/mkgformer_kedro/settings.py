"""Kedro's project settings: how configuration of the environments is merged."""

CONFIG_LOADER_ARGS = {
    "base_env": "base",
    "default_run_env": "local",
    # An environment names only what differs from the base.
    "merge_strategy": {"parameters": "soft", "globals": "soft"},
}
