"""Who runs the cells: each module is one way."""
