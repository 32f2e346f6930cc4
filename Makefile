# Everything that one does here by hand. `make` alone lists it.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
# The harness makes network namespaces, and only root may.
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E env "PATH=$$PATH")
HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
# Test programs run as root, but what cargo builds stays the user's.
ifneq ($(SUDO),)
export CARGO_TARGET_$(HOST)_RUNNER := $(SUDO)
endif

# It starts once for each step of each container: without shared libraries, and with its 17,000 relocations packed (it can be
# loaded at any address nevertheless), it does so faster.
OCI = $(CARGO) rustc --release -p swarm-oci --bin swarm-oci -- -C target-feature=+crt-static -C link-arg=-Wl,-z,pack-relative-relocs

.DEFAULT_GOAL := help
.PHONY: help build demo test test-vm torture soak sim scale bench fuzz lint clean clean-hosts deps

help: ## list what make can do
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | while IFS="$$(printf '\t')" read -r goal what; do printf 'make %-12s %s\n' "$$goal" "$$what"; done

build: ## build swarmd, swarmctl and swarm-oci for use (release)
	$(CARGO) build --release -p swarmd -p swarmctl
	$(OCI)

deps:
	@tests/install-deps.sh

demo: deps ## show three hosts, a workload and a look-up that finds it; ends by itself
	$(CARGO) build --release -p swarmd -p swarmctl
	$(CARGO) build --release -p swarm-tests --bin swarm-demo
	$(SUDO) $(TARGET)/release/swarm-demo

test: ## run all tests, the end-to-end ones through the real binaries as root
	@tests/install-deps.sh --nextest
	$(CARGO) build -p swarmd -p swarmctl -p swarm-oci
	$(CARGO) test --workspace --doc --quiet
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
		echo $(CARGO) nextest run --workspace $(ARGS); $(CARGO) nextest run --workspace $(ARGS); \
	else \
		echo $(CARGO) test --workspace --lib --bins --tests; $(CARGO) test --workspace --lib --bins --tests -- --test-threads=2; \
	fi

test-vm: ## run the runtime's tests in a virtual machine with cgroup v2, on Debian's kernel
	@tests/install-deps.sh --vm
	@tests/vm/run.sh

torture: ## judge what users and watchers are told while faults befall the hosts (DURATION=10m, HOSTS=3; SEED=N: the same actions again)
	@tests/install-deps.sh
	$(CARGO) build --release -p swarmd -p swarmctl
	$(CARGO) build --release -p swarm-tests --bin swarm-torture
	$(SUDO) $(TARGET)/release/swarm-torture histories $(or $(DURATION),10m) $(or $(HOSTS),3)

soak: ## work under faults with real containers, and look for what is not given back (DURATION=1h, HOSTS=3, SEED=N)
	@tests/install-deps.sh
	$(CARGO) build --release -p swarmd -p swarmctl
	$(CARGO) build --release -p swarm-tests --bin swarm-torture
	$(SUDO) $(TARGET)/release/swarm-torture soak $(or $(DURATION),1h) $(or $(HOSTS),3)

# The runtimes' own chance follows the seed only with the one, deliberate bugs are there only with the other.
SIM_FLAGS := --cfg tokio_unstable --cfg sabotage
SIM = RUSTFLAGS="$(RUSTFLAGS) $(SIM_FLAGS)" CARGO_TARGET_DIR="$(TARGET)/simulation" $(CARGO)

sim: ## run whole clusters by seed, with faults, and judge them (SEEDS=1000 FROM=1 TIME=600; SEED=N: that one again; ARGS=…)
	$(SIM) build --profile sim -p swarm-simulation
	$(TARGET)/simulation/sim/swarm-sim $(if $(SEED),--seed $(SEED),--from $(or $(FROM),1) --seeds $(or $(SEEDS),1000) --time $(or $(TIME),600)) $(ARGS)

SCALE ?= 3,10,30,100

scale: ## measure how a cluster fares as it grows, in simulation, and draw the curves (SCALE=3,10,30,100 TASKS=30 on each host)
	$(SIM) build --profile sim -p swarm-simulation
	$(TARGET)/simulation/sim/swarm-sim --scale $(SCALE) --tasks $(or $(TASKS),30) --figures docs/scale.csv

bench: ## measure the figures of docs/benchmarks.md, beside Docker, podman, runc and crun (PARTS=cluster, runtime, shim or images: only that)
	@tests/install-deps.sh --bench
	$(CARGO) build --release -p swarmd -p swarmctl
	$(OCI)
	$(CARGO) build --release -p swarm-tests --bin swarm-bench
	$(SUDO) $(TARGET)/release/swarm-bench docs/benchmarks.md $(PARTS)

# Seconds for each target, and which of them.
FUZZ_SECONDS ?= 60
FUZZ ?= exec spec paths seccomp layer registry frames dns

fuzz: ## fuzz what strangers write, a minute each (FUZZ_SECONDS=600, FUZZ="layer paths": longer, only those)
	@tests/install-deps.sh --fuzz
	@# Nightly's instrumentation works with the stable compiler too, and libFuzzer builds with gcc: no clang is needed.
	@for target in $(FUZZ); do \
		mkdir -p $(TARGET)/fuzz/$$target; \
		echo "$$target: $(FUZZ_SECONDS) s"; \
		RUSTC_BOOTSTRAP=1 $(SUDO) cargo fuzz run --fuzz-dir runtime/fuzz --sanitizer none $$target \
			$(abspath $(TARGET))/fuzz/$$target runtime/fuzz/corpus/$$target -- \
			-max_total_time=$(FUZZ_SECONDS) -timeout=20 -max_len=16384 -print_final_stats=1 || exit 1; \
	done

lint: ## check format and lints
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

clean: clean-hosts ## remove what was built, and hosts left behind
	$(CARGO) clean

clean-hosts: ## remove hosts that killed test runs have left behind
	$(CARGO) build -q -p swarm-tests --bin swarm-clean-hosts
	$(SUDO) $(TARGET)/debug/swarm-clean-hosts
