"""Reading files that others may have made: JSON, TOML, safetensors, Parquet, numpy's arrays and zip archives.

Each reader takes a file's path and checks what the file declares before it allocates: sizes against the file's own
size, depths, counts, offsets. What does not fit is a :class:`recgraph.data.errors.CorruptFileError` that names the
file. No reader unpickles, follows an address or runs anything. All of the library reads through them but
logs and features of a user's own, which are read in streams (``tests/checks/raw_reads.py``).
"""
