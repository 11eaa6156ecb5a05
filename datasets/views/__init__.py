"""From volumes to batches: augmentation and the loader."""
