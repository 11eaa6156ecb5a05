"""The networks that methods pretrain: one file an encoder."""
