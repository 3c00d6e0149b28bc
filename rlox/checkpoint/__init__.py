"""Checkpoints: one pickle-free file with a JSON manifest and digests, written atomically, safe to open from a stranger.

Importing this package imports no torch; :func:`save` and :func:`load` do when they are called. The rest reads with the
standard library alone.
"""

from .store import describe_tensors, file_digest, kind_of_file, load, read_manifest, save, verify, writer

__all__ = [
    "describe_tensors",
    "file_digest",
    "kind_of_file",
    "load",
    "read_manifest",
    "save",
    "verify",
    "writer",
]
