"""The coordinator's side of the audit trail: its notary, what it serves to the sites, and the commands that read and check it."""
