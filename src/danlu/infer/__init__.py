"""Text out of a model: sampling, the cached engine."""
