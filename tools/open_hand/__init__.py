"""How the open hand is made; `tools/build_open_hand.py` runs it."""
