"""One HTML page of a grid."""
