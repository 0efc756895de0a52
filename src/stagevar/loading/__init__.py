"""From a name, folder, file or repository to a filled network."""
