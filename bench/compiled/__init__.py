"""What compilers make of the Triton kernels, read without a GPU."""
