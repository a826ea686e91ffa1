"""Pure logic: no asyncio, sockets, time, random or logging. Clocks and chance are arguments."""
