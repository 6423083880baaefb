"""What is asked of crystals after screening: phonons, elastic constants, equations of state, for many at once."""
