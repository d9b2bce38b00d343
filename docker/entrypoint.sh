#!/bin/sh
# The forms that registry:2's image takes: a configuration file, a command of the program, or any other program.
case "${1:-}" in
    *.yml | *.yaml) exec mirror serve "$@" ;;
    serve | garbage-collect | help | -*) exec mirror "$@" ;;
    *) exec "$@" ;;
esac
