"""The drawn world: grammar, scenes, exact oracles, drawing."""
