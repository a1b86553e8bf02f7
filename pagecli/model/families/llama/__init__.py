"""The Llama shape: RMS or layer norm, attention, add; norm, gated MLP, add."""
