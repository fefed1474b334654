"""Kills a grid at random moments until it is done, and compares it with one that nobody killed."""
