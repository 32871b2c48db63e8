"""Pools that follow a Kubernetes Service."""
