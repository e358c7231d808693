"""``python -m vplface``, and what torchrun starts: ``torchrun --nproc-per-node 8 -m vplface train CONFIG``."""

from vplface.cli import main

if __name__ == "__main__":
    main()
