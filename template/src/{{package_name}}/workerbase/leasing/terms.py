"""How one lease is divided into periods.

The holder of a lease renews it well before it ends; anybody may reclaim work whose lease has
ended. The three shares add up to less than one, so that the work of a dead worker starts again
within one lease.
"""

RENEW_SHARE = 0.15
"""Interval between renewals, as a share of the lease: three may fail before the lease is lost."""
IDLE_SHARE = 0.7
"""Share of the lease after which work that was not renewed counts as abandoned."""
GRACE_SHARE = 0.55
"""Share of the lease within which leases can be renewed after an outage before their work counts as
abandoned."""
SILENCE_SHARE = 0.35
"""Share of the lease from which a time without an answer of Redis is an outage: a shorter one ends
no lease that is renewed again."""
SCAN_SHARE = 0.1
"""Interval between searches for abandoned work; the rest of the lease is for starting it."""
