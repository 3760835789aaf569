"""The aggregator's rules: no IO, no clock, no database; time and facts are arguments."""
