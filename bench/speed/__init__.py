"""How fast: on cards of today, and against others."""
