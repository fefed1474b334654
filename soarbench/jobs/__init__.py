"""What a run does: one file a kind of work."""
