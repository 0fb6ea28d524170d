"""Held-out quality in bits per character, the baselines beside it, and the report."""
