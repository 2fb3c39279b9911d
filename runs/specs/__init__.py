"""The shipped presets (``*.toml``), each what differs from the defaults, and the arms (``arms.toml``)."""
