"""What every accelerator promises, tried on small networks of all families."""
