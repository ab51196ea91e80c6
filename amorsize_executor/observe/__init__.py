"""What can be seen of an executor. It listens and reads; it decides nothing."""
