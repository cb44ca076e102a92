"""The trainer's side: a blocking client of the local daemon. Imports neither trio nor libp2p."""
