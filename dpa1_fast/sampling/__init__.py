"""What a pool of structures looks like to a model (``dpa1-fast embed``), and which are worth labelling (``select``)."""
