"""Commands that run where the data lies."""
