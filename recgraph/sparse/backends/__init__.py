"""Sparse times dense by several libraries, one file each: ``product(adj, x)``, found by ``sparse.spmm``."""
