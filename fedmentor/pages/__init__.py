"""Pages for this machine's browser: a small HTTP server, bounded in every way, that other sites' pages cannot use."""
