"""Certificates and identities: who a peer is."""
