"""`python -m mirror` is the console command."""

from mirror.cli import main

if __name__ == "__main__":
    main()
