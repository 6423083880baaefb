"""The screening job: any number of structures in, energies, forces and a table out."""
