"""Probes, their scores under a model, and the facts that serve as controls."""
