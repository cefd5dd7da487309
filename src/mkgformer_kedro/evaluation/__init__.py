"""How good the model is: ranks, metrics, intervals, drill-down, baselines, leaks, the report."""
