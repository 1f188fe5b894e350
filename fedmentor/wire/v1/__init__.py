"""Generated from proto/fedmentor/wire/v1; regenerate with ``make stubs``."""
