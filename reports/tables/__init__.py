"""Rows as text, CSV and LaTeX."""
