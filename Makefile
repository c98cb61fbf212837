# Two commands do everything on a fresh Debian machine with a Rust toolchain: `make demo` and `make test`.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

NODES ?= 3
# userspace, or ebpf or nftables, which need root
DATAPLANE ?= userspace
CARGO ?= cargo
# nextest's closing line is what CI reads; cargo test is the way out where nextest cannot be installed.
NEXTEST_PROFILE ?= $(if $(CI),ci,default)

.PHONY: help setup demo demo-partition sim test test-vm bench-vm unit lint fmt clippy deny doc bench ebpf ebpf-check clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: ## Install what is missing (Debian packages, cargo-nextest, cargo-deny)
	@scripts/setup

demo: ## Bring up a mesh of NODES agents on this machine (Ctrl-C removes it; DATAPLANE=ebpf or nftables as root)
	@scripts/setup demo
	$(CARGO) build --release --locked -p mesh-agent
	@exec target/release/mesh-agent demo --nodes $(NODES) --data-plane $(DATAPLANE) $(DEMO_ARGS)

demo-partition: ## Split a mesh of network namespaces and let it heal (needs root)
	@scripts/setup demo
	$(CARGO) build --release --locked -p mesh-agent
	@exec target/release/mesh-agent demo --partition $(DEMO_ARGS)

SEEDS ?= 200
sim: ## Simulate SEEDS random stories of the control plane (SIM_ARGS="--scenario split --nodes 50")
	$(CARGO) run --release --locked -p mesh-control --example sim -- --seeds $(SEEDS) $(SIM_ARGS)

test: ## Install what is missing, then format, lint, unit, property, contract and multi-node tests
	@scripts/setup
	$(MAKE) lint
	@other=0; $(MAKE) test-vm || other=$$?; \
	$(CARGO) nextest run --workspace --locked --profile $(NEXTEST_PROFILE); exit $$other

# The whole workspace, so that nothing is built a second time with other features.
test-vm: ## Tests on other kernels, in QEMU (VM_ARGS="--kernel 6.1 --group nftables")
	$(CARGO) build --workspace --bin mesh-vm --locked
	target/debug/mesh-vm test $(VM_ARGS)

bench-vm: ## All data planes beside each other on a kernel with IPVS (BENCH_ARGS="--only program")
	$(CARGO) build --release --locked -p mesh-bench
	$(CARGO) build --workspace --bin mesh-vm --locked
	target/debug/mesh-vm run --limit 1500 --memory 3072 target/release/mesh-bench planes $(BENCH_ARGS)

unit: ## Only the tests of the crates themselves
	$(CARGO) nextest run --workspace --exclude mesh-integration --locked

lint: fmt clippy deny doc ## Formatting, clippy, licences and bans, documentation

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings

deny:
	@scripts/deny

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked --quiet

bench: ## Print the ratio tables against peers and floors
	@scripts/setup bench
	$(CARGO) build --release --locked -p mesh-agent -p mesh-bench
	target/release/mesh-bench all

ebpf: ## Build the kernel programs into ebpf/object (needs rust-src, bpf-linker)
	@scripts/ebpf

ebpf-check: ## Say whether the committed object is what its sources give
	@scripts/ebpf check

clean: ## Remove what was built
	$(CARGO) clean
