"""What was asked for: configuration, plug-ins, how they are assembled, and the keys that name them."""
