pytest_plugins = ["wfbench.pytest_plugin"]
