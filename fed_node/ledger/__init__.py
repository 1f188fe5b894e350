"""The privacy ledger of one site: what was spent of its patients' budget, on what, and what may therefore leave."""
