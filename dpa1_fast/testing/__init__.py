"""``dpa1-fast test``: errors of a model against labelled data, in DeePMD-kit's names."""
