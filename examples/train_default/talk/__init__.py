"""Talk whose facts change: kinds of facts and whole chats, both written by hand, and streams made of them."""
