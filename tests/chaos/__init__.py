"""Faults on purpose, under load: `make chaos`. Not part of `make test`."""
