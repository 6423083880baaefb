"""What moves atoms step by step: the stepper that drivers stand on, FIRE, relaxation."""
