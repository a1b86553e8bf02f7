"""A mixture of experts in place of the MLP, in some layers or in all."""
