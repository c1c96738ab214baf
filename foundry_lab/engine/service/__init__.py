"""The service run: found, started in a process of its own, watched, stopped."""
