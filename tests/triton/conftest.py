"""Kernels in tiles without a GPU: carried out by an interpreter, and compiled for GPUs that are not here.

Both need Triton, which comes with torch for CUDA and not with torch for processors; and which of the two is
decided when it is imported. So `tests/models/attention/test_tiles.py` runs these files in processes of their
own, and nobody else collects them.
"""

collect_ignore_glob = ["test_*.py"]
