"""The coordinator: rounds, secure FedAvg, the journal. Knows numpy, never torch."""
