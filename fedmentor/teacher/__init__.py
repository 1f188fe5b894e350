"""What a teacher is to everybody who asks one: the contract, the HTTP client, and the cache of soft labels on disk."""
