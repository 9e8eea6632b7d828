"""Networks: their architectures and description, how they are trained, what they see in an image."""
