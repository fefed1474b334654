"""What is asked of models, and judging their images."""
