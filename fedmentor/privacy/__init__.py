"""Differential privacy as pure values: what a run promises, what was spent, and what a history of spending adds up to."""
