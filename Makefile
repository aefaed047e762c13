# Each target is a script of the same name; CI runs the same ones.
.PHONY: install demo test chaos check fix bench bench-scaling bench-kernels bench-detection build-cuda clean

install:
	scripts/install

demo: install
	scripts/demo

test: install
	scripts/test

chaos: install
	scripts/chaos

check: install
	scripts/check

fix: install
	scripts/check --fix

bench: install
	scripts/bench

bench-scaling: install
	scripts/bench-scaling

bench-kernels: install
	scripts/bench-kernels

bench-detection: install
	scripts/bench-detection

build-cuda: install
	scripts/build-cuda

clean:
	rm -rf .venv build dist out
