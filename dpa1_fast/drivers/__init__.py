"""Thin doors for programs that move atoms: ASE, TorchSim, LAMMPS."""
