"""How accepted updates become one: a file a rule, all behind the port of coordinator.strategies.strategy. Pure."""
