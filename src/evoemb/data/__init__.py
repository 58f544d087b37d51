"""What people's data look like, read into plain values: chat messages of every make, tables, and files."""
