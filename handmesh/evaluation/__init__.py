"""How good hands are: data to measure on, the FreiHAND benchmark's metrics, robustness, and a report. Needs no torch."""
