"""What another package adds to soarbench: one small component of every kind."""
