"""What reports show, as numbers."""
