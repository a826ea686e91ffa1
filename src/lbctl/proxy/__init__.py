"""The request path: asyncio Protocols that forward, and the pools between them."""
