"""What alone holds the engine's socket: an allow-list before it, and the keeper of pod and lbs."""
