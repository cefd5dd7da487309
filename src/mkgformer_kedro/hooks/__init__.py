"""What every run does beside its nodes: Kedro calls these, see ``settings.py``."""
