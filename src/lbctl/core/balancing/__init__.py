"""Who gets the next request. Policies are pure: they know their candidates, and take chance and
the count of requests as arguments.

    WeightedRoundRobin   each in turn, by weight: the default
    LeastConnections     the fewest requests in flight for its weight
    TwoChoices           the better of two drawn at random
    ConsistentHash       the same key to the same backend, within bounds

Beside them: slow_start (a newcomer's weight grows), sticky (a cookie names a backend), keys and
cookies (what of a request is hashed).
"""

from lbctl.core.balancing.consistent_hash import ConsistentHash
from lbctl.core.balancing.least_connections import LeastConnections
from lbctl.core.balancing.policy import Candidate, Policy
from lbctl.core.balancing.round_robin import RoundRobin, WeightedRoundRobin
from lbctl.core.balancing.two_choices import TwoChoices

__all__ = [
    "Candidate",
    "ConsistentHash",
    "LeastConnections",
    "Policy",
    "RoundRobin",
    "TwoChoices",
    "WeightedRoundRobin",
]
