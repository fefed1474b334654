"""MLflow; nothing else imports it."""
