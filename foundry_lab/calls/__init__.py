"""One call, from arguments to typed result: what a client does, and who sends it."""
