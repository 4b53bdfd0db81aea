"""`python -m dspex_ray.cli` is `dspex`."""

from dspex_ray.cli.main import main

if __name__ == "__main__":
    main()
