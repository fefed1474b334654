"""What can be set, and how YAML and words become it."""
