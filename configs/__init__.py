"""YAML presets; nothing here runs."""
