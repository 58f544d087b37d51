"""How the layers of known backbone families are taken apart, for readers that act inside a layer."""
