"""One codec per protocol: bytes <-> inputs, asks, answers. Pure functions: no socket, no clock, no environment."""
