"""Looking at a site before its node runs: small pure checks of facts (what to say), and one module that gathers the facts."""
