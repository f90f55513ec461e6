"""``python -m neurosae.stimuli check``: what is wrong with a stimulus set."""

from neurosae.stimuli.checks import main

if __name__ == "__main__":
    raise SystemExit(main())
