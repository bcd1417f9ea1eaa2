"""python -m denoiser_service.rank: one rank of a denoiser."""

import sys

from denoiser_service.rank.process import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
