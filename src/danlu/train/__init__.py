"""The trainer: one loop, one small step, one class an objective."""
