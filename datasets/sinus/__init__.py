"""Maxillary sinuses: the phantom, and its findings implanted into real heads."""
