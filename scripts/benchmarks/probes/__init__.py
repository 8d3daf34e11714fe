"""What the commands of this folder and the sides measure."""
