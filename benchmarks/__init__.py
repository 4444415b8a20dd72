"""The speed of the engine, as ratios against what a user would pick instead, in one run."""
