"""The modules of the stack and the parts they are built of."""
