"""The page in the browser: two runs of one seed side by side, and what an accelerator left out."""
