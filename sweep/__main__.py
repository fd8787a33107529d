"""Run `python -m sweep`; sweep/README.md says what it does."""

from sweep.launch import main

if __name__ == "__main__":
    main()
