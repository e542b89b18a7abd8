"""Tables and plots, made from rows of results: plain values, never live models."""
