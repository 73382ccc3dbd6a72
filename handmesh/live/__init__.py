"""What `handmesh-demo` does: pictures from somewhere, through an estimator, to files and a window."""
