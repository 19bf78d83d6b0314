"""The built-in model: bones by Hounsfield units and shape."""
