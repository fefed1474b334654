"""Tables and figures of stored scores: reads files, never a model."""
