"""Evidence that may be looked at after every example without raising the rate of false alarms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import logsumexp, roots_legendre

from dspex_ray.core.evidence import Interval
from dspex_ray.stats.vectors import vector

# Nodes and weights on 0..1: exact for up to 255 pairs, and for more still a bet fixed beforehand,
# which is all that the guarantee needs.
_NODES, _WEIGHTS = roots_legendre(128)
_BETS, _LOG_SHARES = (_NODES + 1.0) / 2.0, np.log(_WEIGHTS / 2.0)
_DIFFERENCE = Interval(low=-1.0, high=1.0)


def log_paired_e(leads: Sequence[float]) -> float:
    """ln E against "no lead on average", of leads in -1..1 on one example each, in any order.

    E = integral over b in 0..1 of prod(1 + b * lead). Were the mean lead at most 0, E would be a
    nonnegative supermartingale from 1: the probability that it *ever* reaches 1/alpha is at most
    alpha, however often one looks (Ville). For wins and losses alone this is the Beta form
    2^(w+l+1) B(w+1, l+1) (1 - I_half(w+1, l+1)) of Turner & Grunwald (2203.09785); the
    step to leads in between follows by linearity of each factor. No leads give 0, that is E = 1.
    """
    if not len(leads):
        return 0.0
    found = vector(leads, "leads", within=_DIFFERENCE)
    return float(logsumexp(_LOG_SHARES + np.log1p(np.outer(_BETS, found)).sum(axis=1)))
