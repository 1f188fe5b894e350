"""Secure aggregation, pure: the integer ring in which updates are summed."""
