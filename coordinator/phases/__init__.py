"""The round as a state machine: one file a phase, one driver (driver.py); docs/rounds.md has the diagram."""
