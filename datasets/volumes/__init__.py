"""Volumes on disk: NIfTI files, and the bank of those that were read."""
