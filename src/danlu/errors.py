"""Every error a user can fix. The command line prints one line (`error: …`) and exits 2.

DanluError
├── ConfigError        a key, a unit or a combination of settings
├── DataError          a source, a document, a shard folder
├── TokenizerError     a tokenizer folder, or one that does not match the shards or the model
├── CheckpointError    a missing, truncated, altered or foreign checkpoint
├── OutputError        an output folder that exists, cannot be written, or a full disk
└── TrainingError      a run that cannot go on (non-finite losses in a row, say)

A message says what is wrong, where, and what to do, in one line.
"""


class DanluError(Exception):
    """Base of every error that a user can fix."""


class ConfigError(DanluError):
    """A key, a unit or a combination of settings that makes no sense."""


class DataError(DanluError):
    """A source, a document or a shard folder that cannot be used."""


class TokenizerError(DanluError):
    """A tokenizer that cannot be read, or that does not match the shards or the model."""


class CheckpointError(DanluError):
    """A checkpoint that is missing, truncated, altered or of an unknown kind."""


class OutputError(DanluError):
    """An output path that exists, cannot be written, or has no room left."""


class TrainingError(DanluError):
    """A run that cannot go on."""
