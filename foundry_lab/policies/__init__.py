"""Whether and when to ask: deadline and retries, circuit breaker, response cache."""
