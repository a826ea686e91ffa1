"""Where backends live: containers of a Docker engine, or local nginx processes."""
