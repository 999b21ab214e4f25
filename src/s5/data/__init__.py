"""Dataset cards, tile manifests, readers, transforms and the demo world."""
