"""Picture tokenizers of the published families."""
