"""Sets of labelled pictures, lists of pairs, augmentation and loading of batches."""
