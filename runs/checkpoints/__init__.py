"""All that a run needs to go on, in files that cannot execute code."""
