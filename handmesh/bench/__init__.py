"""How fast everything is, measured on the user's own machine: `handmesh-bench`."""
