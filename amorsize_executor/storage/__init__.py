"""What outlives the process: the journal under checkpoints and dead letters, and versioned snapshot files."""
