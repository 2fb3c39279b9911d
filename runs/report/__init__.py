"""Several runs side by side: read from their folders, compared, drawn, made into one page."""
