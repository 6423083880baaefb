"""One evaluation in a process by itself, for tools that watch a process: ``python -m bench.speed.first_light.once …``."""

from bench.speed.first_light.tools import main

if __name__ == "__main__":
    main()
