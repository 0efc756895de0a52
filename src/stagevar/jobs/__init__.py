"""Batch jobs: many prompts to pictures on disk, resumable."""
