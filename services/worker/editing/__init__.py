"""Editors, and the steps they share: token positions, target vectors, keys and their statistics."""
