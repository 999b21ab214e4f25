"""The pipelines; they meet in the catalog and never import each other."""
