"""The GPT shape: layer norms, biases and an MLP without a gate; learned positions, ALiBi or rotary embedding."""
