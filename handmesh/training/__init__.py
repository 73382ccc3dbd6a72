"""The workshop: the network, its data, its losses and the loop that trains it. Needs torch."""
