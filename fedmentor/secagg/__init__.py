"""Secure aggregation, pure: the ring in which updates are summed, and the protocol that hides all but the sum."""
