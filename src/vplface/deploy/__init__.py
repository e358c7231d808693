"""From a trained model to what runs where its users are."""
