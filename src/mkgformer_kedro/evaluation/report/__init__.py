"""The page that a run ends with: experts side by side, what that means, and where it comes from."""

from mkgformer_kedro.evaluation.report.page import Look, Published, Section
from mkgformer_kedro.evaluation.report.sections import Groups, Layout, render

__all__ = ["Groups", "Layout", "Look", "Published", "Section", "render"]
