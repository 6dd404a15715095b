# Two commands: `make demo` runs the main job, `make test` passes the tests. Both set up what is missing first.

.PHONY: demo test setup

demo: setup
	ci/demo

test: setup
	ci/test

setup:
	ci/setup
