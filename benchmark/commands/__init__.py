"""What `bench` does for a person: one file a command."""
