"""The agent's rules: pure values and functions, without IO, clock or randomness."""
