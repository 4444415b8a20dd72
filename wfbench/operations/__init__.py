"""What methods and recoveries cost, counted from shapes before anything runs: the only place with these formulas."""
