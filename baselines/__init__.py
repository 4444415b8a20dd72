"""Published methods, one a file, found as a stranger's plugin would be."""
