"""How unlike the images of a prompt are: measures that look at all of them together."""
