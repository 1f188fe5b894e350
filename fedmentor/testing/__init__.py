"""Fakes that work, shipped with the product: the same ones its own tests use."""
