"""Documents in, packed shards out, batches as a function of (plan, seed, step)."""
