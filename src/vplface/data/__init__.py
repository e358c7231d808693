"""From files to batches: sets of labelled pictures, lists of pairs, augmentation, loading."""
