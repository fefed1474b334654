"""Speed and memory of methods and judges, with their naive references."""
