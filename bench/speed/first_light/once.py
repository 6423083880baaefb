"""One evaluation in a process by itself, for tools that watch one."""

from bench.speed.first_light.tools import main

if __name__ == "__main__":
    main()
