"""What services that lease their work share: they read ahead, renew, release and write in batches.

A worker leases a message or job for a limited time and renews the lease while it works, so that
another worker reclaims the work of one that died.
"""
