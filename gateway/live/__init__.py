"""The live plane: what may be lost, because it is rebuilt, refused or begins full."""
