"""``dpa1-fast bench``: how fast a user's own model is on their own machine, on one page."""
