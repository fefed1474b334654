"""Forms of training sets on disk."""
