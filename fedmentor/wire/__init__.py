"""The wire: generated stubs, the codec between domain values and messages, error and status, channels."""
