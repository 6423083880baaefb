"""From a teacher with attention to an attention-free student, by structures without labels."""
