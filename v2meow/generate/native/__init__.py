"""A decoding step on CPUs as one compiled function: weights are read once, and nothing else takes time.

With one or two rows a step is bound by reading its weights, with sixteen by arithmetic. Numba compiles what stands
here, in Python, for the machine at hand, on first use; the result is kept on disk.
"""
