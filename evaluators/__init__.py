"""The judges: each scores images that somebody else made."""
