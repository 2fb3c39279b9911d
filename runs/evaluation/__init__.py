"""What checkpoints can do: episodes played, recorded, written down, played again, filmed."""
