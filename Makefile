.PHONY: check test lock up down

check:
	@scripts/check

test:
	@scripts/test

# Raise or pin versions in pyproject.toml, then this; UPGRADE=--upgrade takes the newest of all.
lock:
	.venv/bin/uv pip compile $(UPGRADE) --quiet --universal --generate-hashes --python-version 3.11 pyproject.toml -o requirements.txt
	.venv/bin/uv pip compile $(UPGRADE) --quiet --universal --generate-hashes --python-version 3.11 --group dev pyproject.toml -c requirements.txt -o requirements-dev.txt

up:
	@scripts/up

down:
	@scripts/down
