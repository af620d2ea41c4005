# The commands of this house; each sets up what it needs first (scripts/setup.sh) and is safe to repeat.
SHELL := /bin/bash
.PHONY: help demo test lint deny test-unit test-pgrx test-regress test-sessions test-versions test-arm test-arm-extension test-package test-image test-upgrade \
        bench bench-arm bench-logs bench-events bench-similarity setup install all package clean

help:            ## this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 20

demo:            ## set everything up and run pgedge on real logs, events and embeddings (KEEP=1 leaves the server running)
	@scripts/demo.sh

test:            ## set everything up and run all tests
	@scripts/test.sh

lint test-unit test-pgrx test-regress test-sessions test-versions:  ## one part of the tests
	@scripts/test.sh $@

deny:            ## check the licences and sources of all dependencies (deny.toml; a part of lint)
	@scripts/setup.sh && scripts/deny.sh

test-arm:        ## build the crates' tests for aarch64 and run them under qemu as the cores of a Raspberry Pi 4 and 5 (no PostgreSQL)
	@scripts/test-arm.sh

test-arm-extension:  ## build the extension for aarch64 and try it in an aarch64 PostgreSQL under qemu (slow)
	@scripts/test-arm-extension.sh

bench-arm:       ## model the NEON inner loops on Cortex-A72 and Neoverse N1 with llvm-mca
	@scripts/bench-arm.sh

bench:           ## run the benchmarks (bench-logs, bench-events, bench-similarity for one); results go to docs/benchmarks
	@scripts/bench.sh

bench-logs bench-events bench-similarity:
	@scripts/bench.sh $(@:bench-%=%)

setup:           ## only set up: system packages, Python tools, PostgreSQL 16 with pgvector, cargo-pgrx
	@scripts/setup.sh

install:         ## build and install the extension into the PostgreSQL that setup found (PG_CONFIG=… to choose)
	@scripts/setup.sh && scripts/install.sh

all:             ## only build the extension, as it ships
	@scripts/setup.sh && . scripts/common.sh && load_env && cargo build --release

package:         ## a Debian package and a PGXN archive in dist/
	@scripts/setup.sh && scripts/package.sh

test-package:    ## make both, install each into a server of its own and use it (some minutes)
	@scripts/test-package.sh

test-upgrade:    ## build pgedge for PostgreSQL 18 too and go there from 16 with pg_upgrade and pg_dump (some minutes)
	@scripts/test-upgrade.sh

test-image:      ## build the Dockerfile with buildah over a stand-in base and try it (root; a quarter of an hour; docs/image.md)
	@scripts/test-image.sh

clean:           ## remove everything that was built or fetched
	rm -rf target .build dist tests/regress/output
