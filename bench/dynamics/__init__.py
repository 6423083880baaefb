"""What trajectories are worth: energies that are conserved, the steps of DeePMD-kit."""
