"""From a network and samples to a pruned network in use: pruned, advised on, compared, stored small."""
