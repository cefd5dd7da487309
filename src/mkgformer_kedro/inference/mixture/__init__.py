"""A mixture of experts that is an expert itself, and whose scores become probabilities.

For a query ``q`` with relation ``r`` and direction ``d``, every expert's scores are standardised,
``z_i(q, e) = log softmax_e(s_i(q, e) / sigma_i)``. ``sigma_i`` is the standard deviation of the
expert's scores over all entities: the query's own, or its mean over the queries, whichever makes
the expert alone more likely on held-out dev. A weight thus says how far an expert moves the
mixture, whatever the scale of its scores. These are summed, a logarithmic opinion pool, and what an
expert says alone is added to it in a linear one (Genest and Zidek, 1986, "Combining probability
distributions")::

    p(e | q) = (1 - sum_i c_i) softmax_e(sum_i w_i(r, d) z_i(q, e)) + sum_i c_i softmax_e(a_i z_i)

In the sum every expert has a veto, in the linear pool none: whoever is sure where the others know
nothing is heard, and an answer that one of them rules out is not lost. ``a_i`` is the weight that
makes the expert alone most likely. The mixture's score of an entity is ``log p``. Where the linear
pool gains less than .01 of log-likelihood an answer, all ``c_i`` are zero: it caps how sure the
mixture can be.

Weights ``w`` are not negative, and fitted on a part of the dev queries by the likelihood of their
answers, the other known answers left out. This is a convex problem, and the temperature of each
expert is part of it. Under the weights lies a hierarchical prior: with strength ``lambda`` those of
a relation and direction are drawn to the direction's, and these to the whole's. Another part of the
dev queries picks ``lambda`` and fits first ``c``, beside a prior of ten answers that the sum alone
gave, then the calibration; a third one sets conformal thresholds. No answer of test is looked at.

An expert that says what another says, or has less than a hundredth of the largest weight
everywhere, is not asked again, unless it alone answers some query. An expert that does not answer a
query is left out of it: its ``c_i`` is the sum's there, and the weights of the others are raised
until they sum to one at least, each measured by the weight that the expert has best alone. The same
is done where dev has left all weights near zero, which says nothing of them. An expert that answers
no dev query cannot be weighed, and is left out.

Some experts have not learned every entity: what a structural expert says of one that train lacks is
noise. Let ``q`` be the distribution of the experts that have learned all, with weights raised as
above. The entities that some expert has not learned have the probability that ``q`` gives them,
times a factor that is picked by the MRR of held-out dev. The rest of ``q`` is shared out among the
others as the whole mixture says, which is fitted on these alone.

A mixture of one expert gives that expert's scores as they are.
"""

from mkgformer_kedro.inference.mixture.expert import (
    Calibration,
    Mixture,
    Weights,
    load_mixture,
)
from mkgformer_kedro.inference.mixture.fitting import choose_experts, fit_mixture
from mkgformer_kedro.inference.mixture.judging import judge_calibration, unlike_splits

__all__ = [
    "Calibration",
    "Mixture",
    "Weights",
    "choose_experts",
    "fit_mixture",
    "judge_calibration",
    "load_mixture",
    "unlike_splits",
]
