"""The rows of a manifest: read (`rows`), held against each other (`checks`), and the order of their classes."""
