"""Link prediction: ranks, their metrics, and all that is said about experts from them."""

from mkgformer_kedro.evaluation.ranking.evaluation import RankingEvaluation, evaluate

__all__ = ["RankingEvaluation", "evaluate"]
