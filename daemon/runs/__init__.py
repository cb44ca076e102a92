"""One run on one host: the node, its stores, its compute and its trainer, in one nursery."""
