"""Autobahn's test suite, against a gateway: `make autobahn`. Not part of `make test`."""
