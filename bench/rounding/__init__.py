"""What each precision of products does to forces, emulated on a CPU."""
