"""Many runs from one file: arms, a space of settings, seeds; tuning apart from testing; nothing run twice."""
