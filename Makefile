# make demo     installs what is missing, builds, mounts a local folder at ./mnt, and shows it
# make test     everything that is checked, with real servers and real mounts
# make bench    the same work on CloudFusion, rclone and s3fs, side by side
# make sanitize the tests in which threads meet, under ThreadSanitizer and AddressSanitizer

.PHONY: build demo test bench sanitize lint clean

build:
	scripts/install-packages build
	scripts/build-release

demo:
	scripts/demo

test:
	scripts/test

bench:
	scripts/install-packages build bench venv
	scripts/build-release
	PYTHONPATH=Tests .build/venv/bin/python Benchmarks/run.py

sanitize:
	scripts/sanitize thread
	scripts/sanitize address

lint:
	scripts/lint

clean:
	rm -rf .build .demo
