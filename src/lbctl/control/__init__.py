"""Discovery, health, membership and publishing: who is in rotation, and who is told."""
