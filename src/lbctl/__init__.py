"""A load balancer for containers: reverse proxy and control plane in pure Python."""

__version__ = "0.1.0"
