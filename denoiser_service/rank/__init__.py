"""What a rank is: the process that holds the model, and the language it is spoken to in."""
