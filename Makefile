# make demo     installs what is missing, builds, mounts a local folder at ./mnt, and shows it
# make test     everything that is checked, with real servers and real mounts
# make bench    the same work on CloudFusion, rclone and s3fs, side by side

.PHONY: build demo test bench lint clean

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

lint:
	scripts/lint

clean:
	rm -rf .build .demo
