"""The only composer: spec, run folder, training loop and command line. Imports nothing by itself."""
