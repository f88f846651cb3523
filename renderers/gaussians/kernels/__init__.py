"""Compiled kernels of the CPU back end. Importing a module of this folder imports numba: only `cpu` does, when it draws."""
