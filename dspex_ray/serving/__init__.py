"""The data plane: snapshot, traffic split, gateway, executor, the local model host."""
